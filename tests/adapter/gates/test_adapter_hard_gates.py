"""Hard gates: what lies below the threshold changes nothing and is not computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gatera import GateraConfig, record_gates
from gatera.adapter import linear as linear_module
from gatera.adapter.kernels import blocks
from gatera.adapter.updates.hira import Hira

IN, OUT = 5, 7
GATES = ("token", "static", "mlp", "attention", "channel")
DELTAS = ("hira", "lora", "dora", "mora", "hilora")


def adapted(gate: str, delta: str, **fields: Any) -> PeftModel:
    torch.manual_seed(4)
    settings = {"r": 2, "gate_init_std": 1.5, "gate_hidden": 3, "init_weights": False, **fields}
    config = GateraConfig(gate=gate, delta=delta, target_modules=["0"], **settings)
    return get_peft_model(nn.Sequential(nn.Linear(IN, OUT)), config)


def x() -> Tensor:
    return torch.randn(2, 6, IN, generator=torch.Generator().manual_seed(9))


def equation(model: PeftModel, soft: PeftModel, given: Tensor, threshold: float) -> Tensor:
    """The output with the gates below the threshold at zero, from that of soft gates."""
    layer = model.base_model.model[0]
    gate = torch.sigmoid(layer.gatera_gate["default"](given))
    hard = torch.where(gate < threshold, torch.zeros_like(gate), gate)
    base = layer.base_layer(given)
    return base + hard * (soft(given) - base) / gate


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.999])
def test_gates_below_the_threshold_count_as_zero(gate: str, delta: str, threshold: float) -> None:
    model = adapted(gate, delta, gate_threshold=threshold).eval().double()
    soft = adapted(gate, delta).eval().double()
    given = x().double()
    with torch.no_grad():
        expected = equation(model, soft, given, threshold)
        actual = model(given)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_a_threshold_splits_the_tokens_of_these_tests() -> None:
    model = adapted("token", "hira").eval()
    gate = torch.sigmoid(model.base_model.model[0].gatera_gate["default"](x()))
    assert 0 < (gate < 0.5).sum() < gate.numel()


@pytest.mark.parametrize("delta", ["hira", "hilora"])
def test_closed_tokens_are_not_computed(delta: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("token", delta, gate_threshold=0.5).eval()
    layer = model.base_model.model[0]
    sizes: list[int] = []
    update_class = type(layer.updates["default"])
    original = update_class.update

    def noted(self: Any, given: Any, parameters: Any, gate: Any) -> Tensor:
        sizes.append(given.x.flatten(0, -2).shape[0])
        return original(self, given, parameters, gate)

    monkeypatch.setattr(update_class, "update", noted)
    with torch.no_grad():
        model(x())
        open_tokens = int((torch.sigmoid(layer.gatera_gate["default"](x())) >= 0.5).sum())
        assert sizes == [open_tokens]
        layer.gatera_gate["default"].bias.fill_(-100.0)
        torch.testing.assert_close(model(x()), layer.base_layer(x()), rtol=0, atol=0)
    assert sizes == [open_tokens]  # all are closed: nothing was computed


def test_training_is_soft_unless_asked() -> None:
    soft = adapted("token", "hira").train()
    hard = adapted("token", "hira", gate_threshold=0.5).train()
    torch.testing.assert_close(hard(x()), soft(x()), rtol=0, atol=0)
    assert not torch.allclose(hard.eval()(x()), soft.eval()(x()))


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", ["token", "mlp", "channel"])
def test_in_training_closed_tokens_give_no_gradient(gate: str, delta: str) -> None:
    fields = {"gate_threshold": 0.5, "gate_threshold_in_training": True}
    model = adapted(gate, delta, **fields).train().double()
    layer = model.base_model.model[0]
    given = x().double().requires_grad_()
    closed = torch.sigmoid(layer.gatera_gate["default"](given)) < 0.5
    assert closed.any()
    y = model(given)
    # Only the closed gates' outputs enter the loss: no adapter parameter may feel it.
    y[closed.expand_as(y)].square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            assert parameter.grad.abs().max() == 0, name
    model.zero_grad()
    model(x().double()).square().sum().backward()
    assert layer.gatera_A["default"].grad.abs().sum() > 0


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_in_training_a_layer_that_is_all_closed_stays_in_the_graph(gate: str, delta: str) -> None:
    """As DistributedDataParallel asks of every parameter."""
    fields = {"gate_threshold": 0.5, "gate_threshold_in_training": True}
    model = adapted(gate, delta, gate_bias=-50.0, **fields).train()
    y = model(x())
    torch.testing.assert_close(y, model.base_model.model[0].base_layer(x()), rtol=0, atol=0)
    y.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_the_gradient_of_open_tokens_is_that_of_the_equation() -> None:
    fields = {"gate_threshold": 0.5, "gate_threshold_in_training": True}
    model = adapted("token", "hira", **fields).train().double()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def output(given: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(model, named, (given,))

    given = x().double().requires_grad_()
    assert torch.autograd.gradcheck(output, (given, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("gate_bias", [-2.0, 2.0])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("training", [True, False])
def test_merged_weights_are_those_of_evaluation_in_either_mode(
    training: bool, delta: str, gate_bias: float
) -> None:
    model = adapted("static", delta, gate_threshold=0.5, gate_bias=gate_bias).eval()
    expected = model(x())
    closed = torch.equal(expected, model.base_model.model[0].base_layer(x()))
    assert closed == (gate_bias < 0)
    merged = model.train(training).merge_and_unload()
    torch.testing.assert_close(merged(x()), expected)


@pytest.mark.parametrize("delta", ["hira", "lora"])
@pytest.mark.parametrize("training", [True, False])
def test_a_weighted_sum_has_the_gates_of_evaluation(training: bool, delta: str) -> None:
    model = adapted("static", delta, gate_threshold=0.5, gate_bias=-2.0)
    fields = {"r": 3, "gate": "static", "delta": delta, "gate_bias": 2.0, "gate_threshold": 0.5}
    model.add_adapter("b", GateraConfig(target_modules=["0"], init_weights=False, **fields))
    model.train(training).add_weighted_adapter(["default", "b"], [0.7, 1.0], "sum")
    model.eval().set_adapter("b")  # the other is closed
    expected = model(x())
    model.set_adapter("sum")
    torch.testing.assert_close(model(x()), expected)


@pytest.mark.parametrize("sharing", ["module", "block", "model"])
def test_the_share_of_skipped_tokens_is_recorded(
    sharing: str, llama: Callable[[], LlamaForCausalLM]
) -> None:
    torch.manual_seed(3)
    config = GateraConfig(
        r=2,
        gate_sharing=sharing,
        gate_threshold=0.4,
        gate_init_std=0.8,
        target_modules=["q_proj", "down_proj"],
    )
    model = get_peft_model(llama(), config).eval()
    ids = torch.tensor([[0, 0, 5, 9], [4, 8, 3, 6]])
    mask = (ids != 0).long()
    with torch.no_grad(), record_gates(model) as gates:
        model(input_ids=ids, attention_mask=mask)
    for (name, _), logit in gates._logits.items():
        real = torch.sigmoid(logit[..., 0])[mask.bool()]
        expected = float((real < 0.4).float().mean())
        assert gates.statistics()[name]["share_skipped"] == pytest.approx(expected)
    shares = [values["share_skipped"] for values in gates.statistics().values()]
    assert gates.overall()["share_skipped"] == pytest.approx(sum(shares) / len(shares))
    assert 0 < gates.overall()["share_skipped"] < 1


def test_without_a_threshold_nothing_is_said_of_skipping() -> None:
    model = adapted("token", "hira").eval()
    with record_gates(model) as gates:
        model(x())
    assert "share_skipped" not in gates.overall()


@pytest.mark.parametrize("gate_bias", [-50.0, 50.0])
@pytest.mark.parametrize("gate", ["token", "static"])
def test_one_token_without_axes_is_gated_as_in_a_batch(gate: str, gate_bias: float) -> None:
    model = adapted(gate, "hira", gate_threshold=0.5, gate_bias=gate_bias).eval()
    torch.testing.assert_close(model(x()[0, 0]), model(x())[0, 0])


def test_a_mixed_batch_skips_too() -> None:
    model = adapted("token", "hira", gate_threshold=0.5).eval()
    with torch.no_grad():
        whole = model(x())
        base = model.base_model.model[0].base_layer(x())
        mixed = model(x(), adapter_names=["default", "__base__"])
    torch.testing.assert_close(mixed[0], whole[0])
    torch.testing.assert_close(mixed[1], base[1])


def test_the_product_is_still_kept_between_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("token", "hira", gate_threshold=0.5).eval()
    monkeypatch.setattr(linear_module, "products", type(linear_module.products)(10_000))
    calls: list[int] = []
    original = blocks.hadamard_product
    monkeypatch.setattr(
        "gatera.adapter.updates.hira.hadamard_product",
        lambda *args: calls.append(1) or original(*args),
    )
    assert type(model.base_model.model[0].updates["default"]) is Hira
    with torch.no_grad():
        model(x())
        model(x())
    assert len(calls) == 1
