"""What is particular to one update: its sizes, and its agreement with PEFT's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gatera import GateraConfig
from gatera.backbones import architecture

IN, OUT = 7, 5


def adapted(base: nn.Module, **fields: Any) -> PeftModel:
    torch.manual_seed(4)
    settings = {"r": 3, "gate": "none", "init_weights": False, "target_modules": ["0"], **fields}
    return get_peft_model(copy.deepcopy(base), GateraConfig(**settings))


def dora_of_peft(base: nn.Module, ours: PeftModel, **fields: Any) -> PeftModel:
    """PEFT's DoRA with the same A, B and magnitude."""
    settings = {"r": 3, "lora_alpha": 3, "use_dora": True, "target_modules": ["0"], **fields}
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(**settings))
    layer, mine = theirs.base_model.model[0], ours.base_model.model[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(mine.gatera_A["default"])
        layer.lora_B["default"].weight.copy_(mine.gatera_B["default"])
        layer.lora_magnitude_vector["default"].weight.copy_(mine.gatera_magnitude["default"])
    return theirs


@pytest.fixture
def base() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(IN, OUT))


@pytest.mark.parametrize("training", [True, False])
def test_dora_without_a_gate_is_that_of_peft(base: nn.Module, training: bool) -> None:
    ours = adapted(base, delta="dora", alpha=6)
    with torch.no_grad():
        ours.base_model.model[0].gatera_magnitude["default"].mul_(1.3)
    theirs = dora_of_peft(base, ours, lora_alpha=6)
    x = torch.randn(2, 4, IN)
    results: list[tuple[Tensor, ...]] = []
    for model, names in (
        (ours.train(training), ("gatera_A", "gatera_B", "gatera_magnitude")),
        (theirs.train(training), ("lora_A", "lora_B", "lora_magnitude_vector")),
    ):
        given = x.clone().requires_grad_()
        y = model(given)
        y.square().sum().backward()
        layer = model.base_model.model[0]
        held = [getattr(layer, name)["default"] for name in names]
        parameters = [h if isinstance(h, Tensor) else h.weight for h in held]
        results.append((y, given.grad, *(p.grad for p in parameters)))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_dora_starts_from_the_norms_of_the_weight_as_in_peft(base: nn.Module) -> None:
    ours = adapted(base, delta="dora")
    layer = ours.base_model.model[0]
    V = layer.base_layer.weight + layer.gatera_B["default"] @ layer.gatera_A["default"]
    expected = V.double().square().sum(1).sqrt().float()
    torch.testing.assert_close(layer.gatera_magnitude["default"].detach(), expected)


def test_dora_merges_into_the_weight_that_peft_merges(base: nn.Module) -> None:
    ours = adapted(base, delta="dora")
    with torch.no_grad():
        ours.base_model.model[0].gatera_magnitude["default"].mul_(0.8)
    theirs = dora_of_peft(base, ours)
    mine, other = ours.merge_and_unload(), theirs.merge_and_unload()
    torch.testing.assert_close(mine[0].weight, other[0].weight, rtol=1e-5, atol=1e-6)


def test_a_fresh_dora_is_the_identity_in_bfloat16(base: nn.Module) -> None:
    low = base.to(torch.bfloat16)
    model = adapted(low, delta="dora", init_weights=True)
    x = torch.randn(3, IN, dtype=torch.bfloat16)
    assert torch.equal(model(x), low(x))


@pytest.mark.parametrize("gate", ["none", "token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dora_trains_where_an_output_has_no_weights(
    base: nn.Module, gate: str, dtype: torch.dtype
) -> None:
    """Weight decay leaves such rows in what rotary embeddings hardly turn."""
    with torch.no_grad():
        base[0].weight[1].zero_()
    model = adapted(base.to(dtype), delta="dora", gate=gate, init_weights=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.1)
    x, wanted = torch.randn(16, IN, dtype=dtype), torch.ones(OUT, dtype=dtype)
    assert torch.equal(model(x)[:, 1], base[0].bias[1].expand(16))
    before = None
    for _ in range(40):
        optimizer.zero_grad()
        loss = (model(x) - wanted).float().square().mean(0)
        loss.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in trained)
        optimizer.step()
        before = float(loss[1]) if before is None else before
    assert float(loss[1]) < 0.9 * before  # that output learns too
    if gate == "none":
        assert torch.isfinite(model.base_model.model[0].get_delta_weight("default")).all()


def test_a_closed_gate_gives_the_base_layer_back_under_dora(base: nn.Module) -> None:
    model = adapted(base, delta="dora", gate="static", gate_bias=-200.0)
    with torch.no_grad():
        model.base_model.model[0].gatera_magnitude["default"].mul_(3.0)
    x = torch.randn(3, IN)
    torch.testing.assert_close(model(x), base(x), rtol=0, atol=0)


@pytest.mark.parametrize("delta", ["lora", "dora", "mora", "hilora"])
def test_rank_stabilized_scaling_divides_by_the_root(base: nn.Module, delta: str) -> None:
    model = adapted(base, delta=delta, alpha=6, use_rslora=True)
    assert model.base_model.model[0].scaling["default"] == pytest.approx(6 / 3**0.5)


@pytest.mark.parametrize(
    ("inner", "out", "rank", "kind", "side"),
    [
        (4096, 4096, 32, "rotate", 512),
        (4096, 1024, 32, "rotate", 404),
        (4096, 1024, 32, "share", 404),
        (4096, 14336, 32, "rotate", 768),
        (7, 5, 3, "rotate", 6),
        (7, 4, 3, "rotate", 4),
        (7, 4, 3, "share", 5),
    ],
)
def test_mora_has_no_more_parameters_than_lora(
    inner: int, out: int, rank: int, kind: str, side: int
) -> None:
    model = get_peft_model(
        nn.Sequential(nn.Linear(inner, out, device="meta")),
        GateraConfig(r=rank, gate="none", delta="mora", mora_type=kind, target_modules=["0"]),
    )
    layer = model.base_model.model[0]
    assert layer.gatera_A["default"].shape == (side, side)
    assert side**2 <= rank * (inner + out)
    assert "default" not in layer.gatera_B


@pytest.mark.parametrize(
    ("delta", "share"), [("mora", 0.6997), ("dora", 0.7098), ("hilora", 1.3906)]
)
def test_parameters_of_llama_3_8b(delta: str, share: float) -> None:
    """0.6997 % is MoRA's published share; DoRA adds a magnitude, HiLoRA doubles HiRA."""
    targets = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    config = GateraConfig(r=32, gate="none", delta=delta, target_modules=targets)
    model = get_peft_model(architecture("llama-3-8b"), config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert 100 * trainable / total == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize("kind", ["rotate", "share"])
def test_mora_is_a_linear_map_that_merges(base: nn.Module, kind: str) -> None:
    model = adapted(base, delta="mora", mora_type=kind, gate="static").eval()
    x = torch.randn(4, IN)
    expected = model(x)
    torch.testing.assert_close(model.merge_and_unload()(x), expected, rtol=1e-5, atol=1e-6)


def test_hilora_is_the_sum_of_its_halves(base: nn.Module) -> None:
    both = adapted(base, delta="hilora", alpha=6)
    layer = both.base_model.model[0]
    hira, lora = adapted(base, delta="hira"), adapted(base, delta="lora", alpha=6)
    with torch.no_grad():
        for name, model, source in (("A", hira, "A"), ("B", hira, "B")):
            held = getattr(model.base_model.model[0], f"gatera_{name}")
            held["default"].copy_(getattr(layer, f"gatera_{source}")["default"])
        for name in ("A", "B"):
            held = getattr(lora.base_model.model[0], f"gatera_{name}")
            held["default"].copy_(getattr(layer, f"gatera_{name}2")["default"])
    x = torch.randn(4, IN)
    torch.testing.assert_close(both(x), hira(x) + lora(x) - base(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("delta", ["hira", "lora", "dora", "mora", "hilora"])
@pytest.mark.parametrize("gate", ["token", "attention", "channel"])
def test_autocast_and_low_precision_stay_close(
    delta: str, gate: str, llama: Callable[[], LlamaForCausalLM]
) -> None:
    fields = {"r": 2, "gate": gate, "delta": delta, "gate_hidden": 3, "init_weights": False}
    ids = torch.tensor([[5, 9, 4, 7], [3, 8, 6, 2]])
    torch.manual_seed(3)
    config = GateraConfig(target_modules=["q_proj", "up_proj", "down_proj"], **fields)
    model = get_peft_model(llama(), config)
    expected = model(input_ids=ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loose = model(input_ids=ids).logits
    spread = expected.std()
    assert (loose.float() - expected).abs().mean() < 0.05 * spread
    low = model.to(torch.bfloat16)
    assert (low(input_ids=ids).logits.float() - expected).abs().mean() < 0.05 * spread
    low(input_ids=ids).logits.float().square().sum().backward()
    assert all(p.grad is not None for p in low.parameters() if p.requires_grad)
