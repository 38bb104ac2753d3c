"""One transformer block's linear layers, adapted by PEFT's methods or by ours."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import HiraConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from gatera import GateraConfig
from gatera.adapter.gates import GATES
from gatera.adapter.updates import DELTAS

RANK = 32
PEFT_LORA, PEFT_DORA, PEFT_HIRA = "PEFT LoRA", "PEFT DoRA", "PEFT HiRA"
PEFT_METHODS = (PEFT_LORA, PEFT_DORA, PEFT_HIRA)
CORE_METHODS = (*PEFT_METHODS, "none+hira", "token+hira", "token+lora")
ALL_METHODS = (*PEFT_METHODS, *(f"{gate}+{delta}" for gate in GATES for delta in DELTAS))


@dataclass(frozen=True)
class Size:
    """The widths of a block, in features, and the tokens of one step."""

    hidden: int
    intermediate: int
    key_value: int
    tokens: int

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the five adapted projections."""
        return {
            "q_proj": (self.hidden, self.hidden),
            "k_proj": (self.key_value, self.hidden),
            "v_proj": (self.key_value, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }


SIZES = {
    "smollm2-135m": Size(hidden=576, intermediate=1536, key_value=192, tokens=1024),
    "llama-like": Size(hidden=2048, intermediate=5632, key_value=256, tokens=512),
    "llama-3-8b": Size(hidden=4096, intermediate=14336, key_value=1024, tokens=512),
}


@dataclass(frozen=True)
class Precision:
    """The types of a run: of the frozen weights and activations, and of the adapter."""

    base: torch.dtype
    adapter_in_base_type: bool  # `autocast_adapter_dtype=False`; else PEFT makes adapters float32
    autocast: bool

    def context(self, device: torch.device) -> AbstractContextManager[Any]:
        """What the forward pass runs in."""
        return torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext()


PRECISIONS = {
    "float32": Precision(torch.float32, adapter_in_base_type=True, autocast=False),
    "bfloat16": Precision(torch.bfloat16, adapter_in_base_type=True, autocast=False),
    "bfloat16-autocast": Precision(torch.bfloat16, adapter_in_base_type=False, autocast=True),
    "bfloat16-default": Precision(torch.bfloat16, adapter_in_base_type=False, autocast=False),
}


def frozen_weights(
    size: Size, names: tuple[str, ...], dtype: torch.dtype, device: torch.device
) -> dict[str, nn.Parameter]:
    """Random weights of the named projections, in nn.Linear's range."""
    weights = {}
    for name in names:
        out, into = size.shapes()[name]
        drawn = (2 * torch.rand(out, into, device=device) - 1) / into**0.5
        weights[name] = nn.Parameter(drawn.to(dtype), requires_grad=False)
    return weights


def adapted_layers(
    method: str, weights: dict[str, nn.Parameter], precision: Precision, **fields: Any
) -> dict[str, nn.Module]:
    """The projections as `get_peft_model` makes them, on the given weights themselves.

    Args:
        method: One of ALL_METHODS.
        weights: (out, in) by projection; shared, not copied.
        precision: Says in which type the adapter's parameters are.
        fields: More fields of GateraConfig, for our methods.
    """
    base = nn.Module()
    for name, weight in weights.items():
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = weight
        setattr(base, name, linear)
    config = method_config(method, list(weights), fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT misses what a transformers model has
        model = get_peft_model(
            base, config, autocast_adapter_dtype=not precision.adapter_in_base_type
        )
    randomize(model)
    return {name: getattr(model.base_model.model, name) for name in weights}


def method_config(method: str, targets: list[str], fields: dict[str, Any]) -> Any:
    """The PEFT configuration of one of ALL_METHODS."""
    if method in (PEFT_LORA, PEFT_DORA):
        return LoraConfig(
            r=RANK, lora_alpha=RANK, use_dora=method == PEFT_DORA, target_modules=targets
        )
    if method == PEFT_HIRA:
        return HiraConfig(r=RANK, target_modules=targets)
    gate, delta = method.split("+")
    return GateraConfig(r=RANK, gate=gate, delta=delta, target_modules=targets, **fields)


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Give the factors that start at zero small values: no product may be a product with zero."""
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.any():
            parameter.uniform_(-0.1, 0.1)


def bytes_kept(layers: dict[str, nn.Module], inputs: dict[str, Tensor], run: Any) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters left out.

    Each storage counts once and whole, however many tensors look at it.
    """
    own = {p.untyped_storage().data_ptr() for layer in layers.values() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = run(layers, inputs)  # held, or a freed address could be counted as another's
    del outputs
    return sum(kept.values())
