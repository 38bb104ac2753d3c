"""What a model computes and keeps for a token, counted from its shapes: for estimates of cost.

Operations are those of matrix products, a multiplication and an addition being two; what goes
element by element is left out. With N the weights of all linear layers of the backbone, Na those of
the adapted ones, n the trained values that multiply a token (factors of an additive update, gates),
h the width of all heads, L the blocks, r the rank, and a context of T tokens, a token costs

    forward                2 N + 2 n + 4 h T L        + 2 Na where D x is computed beside W x
    forward and backward   4 N + 6 n + 12 h T L       + 2 Na p

where D = W ⊙ BA, and p is how many products of the base layer's size an update adds to the two (W x
and Wᵀ dy) that pass through a frozen layer: 0 for an additive update; 1 for a multiplicative one
whose gate is one for all tokens (the gradient of D), 2 where D x is apart because two bytes a value
would round BA away, 3 where each token has its own gate (D x and Dᵀ dy too). Besides, a pass builds
BA and the gradients of A and B, 8 r Na whatever its tokens. Frozen weights get no gradients, which
is why it is 4 N and not 6 N. With gradient checkpointing the forward pass comes twice. An update of
one's own counts as additive: what its class multiplies is not known here.

For the backward pass a LLaMA-like block keeps of each token, with d its width, f that of its MLP,
and b bytes a value: both inputs of its norms (in 4 bytes), q, k, v and the output of attention (4 h
values, keys and values repeated for all heads), three values of f in the MLP, and one input for
each group of adapted layers that reads the same; what updates and gates keep of an output's width
stands in the tables below. The loss holds the logits of as many tokens as it takes at once
(`LOGITS_AT_ONCE` values), in b bytes and twice in 4. With gradient checkpointing a block keeps its
input alone, and only one block at a time all of this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from gatera.settings import Dtype
from gatera.training.logits import LOGITS_AT_ONCE
from gatera.trial import FROZEN

_BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2}
# Of a weight that bitsandbytes packs: in NF4 a byte of scale for 64 of them, quantized in its turn.
_PACKED_BYTES = {"8bit": 1.0, "4bit": 0.5 + (1 + 4 / 256) / 64}
_TRAINED_BYTES = 16  # a trained value, its gradient, and AdamW's two moments, in float32
_MULTIPLICATIVE = ("hira", "hilora")
_ONE_FOR_ALL_TOKENS = ("none", "static")
_FACTORS = ("gatera_A.", "gatera_B.")  # of a multiplicative update: they multiply no token
_OUTPUTS_KEPT: Mapping[str, float] = {"dora": 2, "mora": 1}  # values as wide as the output, a token
_GATED_OUTPUTS_KEPT: Mapping[str, float] = {"dora": 1, "mora": 1}  # the same, with a gate
_CHANNEL_OUTPUTS_KEPT = 2


@dataclass(frozen=True)
class Computation:
    """What one configuration's model computes and keeps; see the formulas above."""

    forward_flops: float  # of a token, without attention
    training_flops: float  # of a token, forward and backward, without attention
    attention_flops: float  # of a token, forward, for each token of its context
    pass_flops: float  # of a forward and backward pass, whatever its tokens
    weight_bytes: int  # of the backbone
    read_bytes: int  # of weights for one decoding step, whatever the batch
    trained_bytes: int  # of what is trained, with gradients and the optimizer's moments
    kept_bytes: float  # of a token, for the backward pass
    logits_bytes: float  # of a token, in training
    loss_tokens: int  # whose logits the loss holds at once, at most


def of_model(model: Any, config: Mapping[str, Any]) -> Computation:
    """Return what a model computes and keeps.

    Args:
        model: The backbone, its weights frozen, with the adapter of the configuration on it.
        config: The resolved configuration.
    """
    size = _BYTES[config["train"]["dtype"]]
    weights = sum(m.weight.numel() for m in model.modules() if _is_frozen_linear(m))
    parameters = list(model.parameters())
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    saved = _saved_bytes(model, config.get("backbone", {}).get("quantization", "none"), size)
    forward, training, of_pass, read = 2.0 * weights, 4.0 * weights, 0.0, weights
    kept_by_adapter = 0.0
    if (adapter := config["adapter"])["method"] != FROZEN:
        layers = {name: m for name, m in model.named_modules() if hasattr(m, "base_layer")}
        kept_by_adapter = size * (sum(_distinct_inputs(layers)) + _outputs_kept(adapter, layers))
        multiplying = _multiplying(model, adapter["delta"])
        forward, training = forward + 2.0 * multiplying, training + 6.0 * multiplying
        if adapter["delta"] in _MULTIPLICATIVE:
            changed = sum(layer.base_layer.weight.numel() for layer in layers.values())
            products = _products_added(adapter, size)
            forward += 2.0 * changed * (products > 1)
            training += 2.0 * changed * products
            of_pass = 8.0 * adapter["r"] * changed
            read += changed * (products > 1)
    sizes = model.config.get_text_config()
    width, blocks = sizes.hidden_size, sizes.num_hidden_layers
    heads = sizes.num_attention_heads
    of_heads = heads * (getattr(sizes, "head_dim", None) or width // heads)
    mlp = getattr(sizes, "intermediate_size", None) or 4 * width
    block = 8 * width + size * (4 * of_heads + 3 * mlp)
    kept = kept_by_adapter + blocks * block
    if config["train"].get("gradient_checkpointing"):
        training += forward
        kept = kept / blocks + size * blocks * width
    return Computation(
        forward_flops=forward,
        training_flops=training,
        attention_flops=4.0 * of_heads * blocks,
        pass_flops=of_pass,
        weight_bytes=size * frozen - saved,
        read_bytes=size * read - saved,
        trained_bytes=_TRAINED_BYTES * trained,
        kept_bytes=kept,
        logits_bytes=(size + 8) * sizes.vocab_size,
        loss_tokens=max(1, LOGITS_AT_ONCE // sizes.vocab_size),
    )


def _saved_bytes(model: Any, quantization: str, size: int) -> int:
    """Return the bytes that packing saves: of linear layers, but for the output layer."""
    if quantization == "none":
        return 0
    head = model.get_output_embeddings()
    layers = (m for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    packed = sum(m.weight.numel() for m in layers if not m.weight.requires_grad)
    return round((size - _PACKED_BYTES[quantization]) * packed)


def _is_frozen_linear(module: nn.Module) -> bool:
    is_linear = isinstance(module, nn.Linear | Conv1D)
    return is_linear and not module.weight.requires_grad


def _products_added(adapter: Mapping[str, Any], size: int) -> int:
    """Return p of the formulas above for a multiplicative update; values have `size` bytes."""
    if adapter["gate"] not in _ONE_FOR_ALL_TOKENS or adapter["delta"] != "hira":
        return 3
    return 1 if size == 4 else 2  # in two bytes W (1 + BA) would round BA away: D x is apart


def _multiplying(adapted: nn.Module, delta: str) -> int:
    """Return the trained values that multiply a token; MoRA's square matrix does so many times."""
    counted = 0
    for name, parameter in adapted.named_parameters():
        if not parameter.requires_grad:
            continue
        if delta in _MULTIPLICATIVE and any(each in name for each in _FACTORS):
            continue
        times = 1
        if delta == "mora" and "gatera_A." in name:
            layer: Any = adapted.get_submodule(name.partition(".gatera_")[0])
            times = math.ceil(layer.in_features / len(parameter))
        counted += times * parameter.numel()
    return counted


def _outputs_kept(adapter: Mapping[str, Any], layers: Mapping[str, Any]) -> float:
    """Return how many values a token's update and gate keep as wide as outputs are."""
    width: int = sum(layer.out_features for layer in layers.values())
    times = float(_OUTPUTS_KEPT.get(adapter["delta"], 0))
    if adapter["gate"] != "none":
        times += _GATED_OUTPUTS_KEPT.get(adapter["delta"], 0)
    if adapter["gate"] == "channel":
        times += _CHANNEL_OUTPUTS_KEPT
    return width * times


def _distinct_inputs(layers: Mapping[str, Any]) -> Iterator[int]:
    """Yield the width of each input that adapted layers read, those of one parent read the same.

    In a block, that is true of the layers that have their width in common.
    """
    seen = set()
    for name, layer in layers.items():
        read = (name.rpartition(".")[0], layer.in_features)
        if read not in seen:
            seen.add(read)
            yield layer.in_features
