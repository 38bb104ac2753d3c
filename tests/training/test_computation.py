"""Operations and memory by formula, beside what torch counts in a real pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from gatera import backbones
from gatera.training.adapting import attach
from gatera.training.computation import Computation, of_model

ITEMS, TOKENS, VOCABULARY = 8, 64, 512
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
LLAMA = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@dataclass
class Counted:
    """What torch counted, of a token."""

    forward: float
    both: float  # forward and backward
    kept: float  # bytes for the backward pass, logits included


def adapter_of(delta: str, gate: str) -> dict[str, Any]:
    section = {"method": "gatera", "r": 8, "target_modules": TARGETS, "init_weights": False}
    return {**section, "delta": delta, "gate": gate}


def make_model(section: dict[str, Any], attention: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LLAMA, attn_implementation=attention)
    return attach(model.requires_grad_(False), section).train()


def _inplace(shape: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return int(2 * a[0] * a[1] * b[1])


def count(model: Any) -> Counted:
    tokens = torch.randint(0, VOCABULARY, (ITEMS, TOKENS))
    kept: dict[int, int] = {}
    held = []  # so that no storage is freed, and its address used again
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # torch counts addmm and not its form in place, which the update uses.
    inplace = {torch.ops.aten.addmm_: _inplace}
    with FlopCounterMode(display=False, custom_mapping=inplace) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model(input_ids=tokens, labels=tokens)
        forward = counter.get_total_flops()
        out.loss.backward()
    of_a_token = 1 / (ITEMS * TOKENS)
    return Counted(
        forward * of_a_token,
        counter.get_total_flops() * of_a_token,
        sum(kept.values()) * of_a_token,
    )


def computed(model: Any, section: dict[str, Any], **train: Any) -> Computation:
    return of_model(model, {"adapter": section, "train": {"dtype": "float32", **train}})


@pytest.mark.parametrize(
    ("delta", "gate"),
    [
        ("hira", "none"),
        ("hira", "static"),
        ("hira", "token"),
        ("hira", "channel"),
        ("lora", "none"),
        ("lora", "token"),
        ("lora", "mlp"),
        ("dora", "none"),
        ("mora", "token"),
        ("hilora", "none"),
        ("hilora", "token"),
    ],
)
def test_operations_are_those_that_torch_counts(delta: str, gate: str) -> None:
    section = adapter_of(delta, gate)
    model = make_model(section, "eager")  # torch counts no fused attention on a CPU
    of, found = computed(model, section), count(model)
    in_attention = of.attention_flops * TOKENS
    assert of.forward_flops + in_attention == pytest.approx(found.forward, rel=0.03)
    both = of.training_flops + 3 * in_attention + of.pass_flops / (ITEMS * TOKENS)
    assert both == pytest.approx(found.both, rel=0.03)


def test_gradient_checkpointing_costs_a_forward_pass_more() -> None:
    section = adapter_of("hira", "token")
    model = make_model(section, "eager")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    of, found = computed(model, section, gradient_checkpointing=True), count(model)
    both = of.training_flops + 4 * of.attention_flops * TOKENS + of.pass_flops / (ITEMS * TOKENS)
    assert both == pytest.approx(found.both, rel=0.05)


@pytest.mark.parametrize(
    ("delta", "gate"),
    [("hira", "token"), ("lora", "none"), ("lora", "channel"), ("dora", "token"), ("mora", "none")],
)
def test_what_is_kept_is_what_torch_keeps(delta: str, gate: str) -> None:
    section = adapter_of(delta, gate)
    model = make_model(section, "sdpa")
    of, found = computed(model, section), count(model)
    # In float32 the logits need no copy of another type.
    kept = of.kept_bytes + of.logits_bytes - 4 * VOCABULARY
    assert kept == pytest.approx(found.kept, rel=0.2)


def test_weights_are_counted_once_where_they_are_tied() -> None:
    model = backbones.architecture("smollm2").requires_grad_(False)
    section = {"method": "frozen"}
    of = of_model(model, {"adapter": section, "train": {"dtype": "bfloat16"}})
    assert of.weight_bytes == 2 * 134_515_008
    assert of.forward_flops == 2 * (134_515_008 - 61 * 576)  # all but the norms' weights
    assert of.trained_bytes == 0


def llama_3_8b(delta: str, gate: str) -> Computation:
    section = {**adapter_of(delta, gate), "r": 32}
    model = attach(backbones.architecture("llama-3-8b").requires_grad_(False), section)
    return of_model(model, {"adapter": section, "train": {"dtype": "bfloat16"}})


@pytest.mark.parametrize(
    ("delta", "gate", "seconds"),
    [("lora", "none", 0.173), ("hira", "none", 0.257), ("hira", "token", 0.395)],
)
def test_a_third_of_the_peak_is_what_a_gpu_reached(delta: str, gate: str, seconds: float) -> None:
    """Steps of 4 x 512 tokens that were measured on an H100, 989e12 operations a second."""
    of = llama_3_8b(delta, gate)
    flops = 4 * 512 * (of.training_flops + 3 * 512 * of.attention_flops) + of.pass_flops
    assert flops / (989e12 / 3) == pytest.approx(seconds, rel=0.25)


def test_memory_is_what_a_gpu_needed() -> None:
    """The same step held 14.1 GiB beside the weights."""
    of = llama_3_8b("hira", "token")
    held = of.trained_bytes + 4 * 512 * (of.kept_bytes + of.logits_bytes)
    assert held / 2**30 == pytest.approx(14.1, rel=0.15)
    assert of.weight_bytes / 2**30 == pytest.approx(14.96, abs=0.01)


@pytest.mark.parametrize(("bits", "gib"), [("8bit", 8.5), ("4bit", 5.3)])
def test_packed_weights_take_less(bits: str, gib: float) -> None:
    """Of LLaMA-3-8B: 6.98 billion weights are packed, embeddings and output layer are not."""
    model = backbones.architecture("llama-3-8b").requires_grad_(False)
    frozen = {"adapter": {"method": "frozen"}, "train": {"dtype": "bfloat16"}}
    of = of_model(model, {**frozen, "backbone": {"quantization": bits}})
    assert of.weight_bytes / 2**30 == pytest.approx(gib, abs=0.1)
    whole = of_model(model, frozen)
    assert whole.read_bytes - of.read_bytes == whole.weight_bytes - of.weight_bytes > 0
