"""Adapted layers against loops, against PEFT's own methods, and through merging."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from peft import HiraConfig, LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gatera import GateraConfig, GateraModel
from gatera.adapter import GateraLinear
from gatera.errors import InputError

IN, HIDDEN, OUT = 7, 5, 3
GATES = ("token", "static", "none")
DELTAS = ("hira", "lora")


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUT)).to(dtype)


def adapted(
    net: nn.Module | None = None, target_modules: list[str] | None = None, **fields: Any
) -> PeftModel:
    """A network with a random adapter, so that it differs from its base."""
    fields = {"r": 4, "init_weights": False, "gate_init_std": 0.7, "gate_bias": 0.3, **fields}
    config = GateraConfig(target_modules=target_modules or ["0", "2"], **fields)
    torch.manual_seed(5)
    return get_peft_model(network() if net is None else net, config)


def layer(model: PeftModel, index: int = 0) -> GateraLinear:
    found = model.base_model.model[index]
    assert isinstance(found, GateraLinear)
    return found


def reference(module: GateraLinear, x: Tensor, name: str = "default", alpha: float = 1.0) -> Tensor:
    """y = W0 x + c + g(x) · Δ(x), one number at a time, from the module's parameters."""
    base = module.get_base_layer()
    W = base.weight.t() if isinstance(base, Conv1D) else base.weight
    A, B = module.gatera_A[name], module.gatera_B[name]
    rows = x.reshape(-1, x.shape[-1])
    y = torch.zeros(len(rows), W.shape[0], dtype=torch.float64)
    for t in range(len(rows)):
        z = 0.0
        if module.gate[name] == "token":
            weight = module.gatera_gate[name].weight[0]
            z = sum(weight[j].item() * rows[t, j].item() for j in range(len(weight)))
        if module.gate[name] != "none":
            z += module.gatera_gate[name].bias.item()
        gate = 1.0 if module.gate[name] == "none" else 1 / (1 + math.exp(-z))
        for i in range(W.shape[0]):
            y[t, i] = float(base.bias[i])
            for j in range(W.shape[1]):
                ba = sum(float(B[i, k]) * float(A[k, j]) for k in range(A.shape[0]))
                delta = float(W[i, j]) * ba if module.delta[name] == "hira" else alpha * ba
                y[t, i] += (float(W[i, j]) + gate * delta) * float(rows[t, j])
    return y.reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("tokens", [(), (4,), (2, 3)])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_adapted_layer_matches_the_equation(gate: str, delta: str, tokens: tuple[int, ...]) -> None:
    alpha = {"alpha": 6.0} if delta == "lora" else {}
    model = adapted(gate=gate, delta=delta, **alpha)
    x = torch.randn(*tokens, IN, dtype=torch.float64)
    expected = reference(layer(model), x, alpha=6.0 / 4)
    for mode in (model.train, model.eval):
        mode()
        torch.testing.assert_close(layer(model)(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(layer(model)(x), expected)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_gradients_of_the_layer_are_right(gate: str, delta: str) -> None:
    module = layer(adapted(gate=gate, delta=delta))
    x = torch.randn(2, 3, IN, dtype=torch.float64, requires_grad=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *parameters))


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_conv1d_layers_match_the_equation_and_merge(gate: str, delta: str) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(Conv1D(HIDDEN, IN)).double()
    module = layer(adapted(net, ["0"], gate=gate, delta=delta))
    x = torch.randn(2, 3, IN, dtype=torch.float64)
    expected = reference(module, x)
    torch.testing.assert_close(module(x), expected)
    if gate != "token":
        module.merge()
        torch.testing.assert_close(module.get_base_layer()(x), expected)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_fresh_adapter_changes_nothing(gate: str, delta: str) -> None:
    net = network(torch.float32)
    x = torch.randn(4, IN)
    expected = net(x)
    model = adapted(net, gate=gate, delta=delta, init_weights=True)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_only_adapter_parameters_get_gradients(gate: str, delta: str) -> None:
    model = adapted(gate=gate, delta=delta)
    model(torch.randn(4, IN, dtype=torch.float64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert ("gatera_" in name) == parameter.requires_grad == (parameter.grad is not None), name


def test_parameters_have_the_names_and_shapes_of_the_design() -> None:
    prefix = "base_model.model.0.gatera_"
    shapes = {n: tuple(p.shape) for n, p in adapted(gate="token").named_parameters()}
    assert {n: s for n, s in shapes.items() if n.startswith(prefix)} == {
        f"{prefix}A.default": (4, IN),
        f"{prefix}B.default": (HIDDEN, 4),
        f"{prefix}gate.default.weight": (1, IN),
        f"{prefix}gate.default.bias": (1,),
    }
    static = {n for n, _ in adapted(gate="static").named_parameters() if "gate." in n}
    assert static == {f"base_model.model.{i}.gatera_gate.default.bias" for i in (0, 2)}
    assert not any("gatera_gate" in n for n, _ in adapted(gate="none").named_parameters())


def test_gate_temperature_divides_the_logit() -> None:
    model = adapted(gate="token", gate_temperature=0.5)
    x = torch.randn(4, IN, dtype=torch.float64)
    module = layer(model)
    with torch.no_grad():
        sharp = module(x)
        for parameter in module.gatera_gate["default"].parameters():
            parameter.mul_(2.0)
    module.gatera_gate["default"].temperature = 1.0
    torch.testing.assert_close(sharp, module(x))


def copy_parameters(theirs: PeftModel, ours: PeftModel) -> None:
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in (
            ("hira_A.", "gatera_A."),
            ("hira_B.", "gatera_B."),
            ("lora_A.default.weight", "gatera_A.default"),
            ("lora_B.default.weight", "gatera_B.default"),
        ):
            name = name.replace(old, new)
        state[name] = value
    ours.load_state_dict(state)


PEERS = {
    "hira": (HiraConfig(r=4, target_modules=["0", "2"], init_weights=False), {}),
    "lora": (
        LoraConfig(r=4, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False),
        {"alpha": 6},
    ),
    "rslora": (
        LoraConfig(
            r=4, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False, use_rslora=True
        ),
        {"alpha": 6, "use_rslora": True},
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("peer", list(PEERS))
def test_without_a_gate_the_update_is_pefts(peer: str, dtype: torch.dtype) -> None:
    """To 8 units of rounding for hira, which runs as one folded product; exactly for lora."""
    config, fields = PEERS[peer]
    theirs = get_peft_model(network(dtype), copy.deepcopy(config))
    delta = "hira" if peer == "hira" else "lora"
    ours = adapted(network(dtype), gate="none", delta=delta, **fields)
    copy_parameters(theirs, ours)
    x = torch.randn(2, 6, IN, dtype=dtype)
    rounding = 0.0 if delta == "lora" else 8 * torch.finfo(dtype).eps
    expected, actual = theirs(x), ours(x)
    torch.testing.assert_close(actual, expected, rtol=rounding, atol=10 * rounding)
    expected.square().sum().backward()
    actual.square().sum().backward()
    gradients = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    compared = 0
    for name, parameter in theirs.named_parameters():
        if parameter.grad is None:
            continue
        ours_name = name.replace("hira_", "gatera_").replace("lora_", "gatera_")
        gradient = gradients[ours_name.removesuffix(".weight")]
        torch.testing.assert_close(
            gradient, parameter.grad, rtol=10 * rounding, atol=100 * rounding
        )
        compared += 1
    assert compared == 4
    theirs.merge_adapter()
    ours.merge_adapter()
    for index in (0, 2):
        merged = theirs.base_model.model[index].base_layer.weight
        assert torch.equal(layer(ours, index).base_layer.weight, merged)


def test_dropout_acts_on_the_update_and_not_on_base_or_gate() -> None:
    model = adapted(gate="token", dropout=0.5).train()
    module = layer(model)
    x = torch.ones(400, IN, dtype=torch.float64)
    with torch.no_grad():
        module.gatera_gate["default"].weight.fill_(50.0)  # any dropped input would move the gate
        dropped = module(x) - module.base_layer(x)
    model.eval()
    with torch.no_grad():
        whole = module(x) - module.base_layer(x)
    assert not torch.allclose(dropped, whole)
    torch.testing.assert_close(dropped.mean(0), whole.mean(0), rtol=0.5, atol=0.1)


@pytest.mark.parametrize("safe_merge", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", ["static", "none"])
def test_merge_keeps_the_output_and_unmerge_restores_the_bits(
    gate: str, delta: str, dtype: torch.dtype, safe_merge: bool
) -> None:
    model = adapted(network(dtype), gate=gate, delta=delta).eval()
    before = layer(model).base_layer.weight.detach().clone()
    x = torch.randn(6, IN, dtype=dtype)
    expected = model(x)
    model.merge_adapter(safe_merge=safe_merge)
    assert not torch.equal(layer(model).base_layer.weight, before)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(model(x), expected, rtol=tolerance, atol=tolerance)
    model.unmerge_adapter()
    assert torch.equal(layer(model).base_layer.weight, before)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    merged = model.merge_and_unload()
    assert type(merged[0]) is nn.Linear
    torch.testing.assert_close(merged(x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("delta", DELTAS)
def test_token_gates_refuse_to_merge_before_anything_is_touched(delta: str) -> None:
    """The mergeable adapter sits on the first layer, where a late check would merge it."""
    model = adapted(target_modules=["0"], gate="none", delta=delta)
    fields = {"gate": "token", "delta": delta, "init_weights": False}
    model.add_adapter("late", GateraConfig(r=2, target_modules=["2"], **fields))
    model.base_model.set_adapter(["default", "late"])
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    message = r"adapter 'late' cannot be merged: its gate \('token'\) depends on the input"
    for merge in (model.merge_adapter, model.merge_and_unload, layer(model, 2).merge):
        with pytest.raises(ValueError, match=message):
            merge()
    assert not layer(model).merged
    assert all(torch.equal(weights[n], p) for n, p in model.named_parameters())
    with pytest.raises(InputError, match=message):
        layer(model, 2).get_delta_weight("late")
    model.merge_adapter(adapter_names=["default"])
    assert layer(model).merged_adapters == ["default"]
    assert type(model.unload()[2]) is nn.Linear


def test_merging_on_the_cpu_copies_the_weight_into_the_merged_one_alone() -> None:
    model = adapted(gate="static")
    weight = layer(model).get_base_layer().weight
    before, place = weight.detach().clone(), weight.data_ptr()
    model.merge_adapter()
    assert weight.data_ptr() != place
    model.unmerge_adapter()
    assert weight.data_ptr() == place
    assert torch.equal(weight, before)


def test_safe_merge_refuses_nans_and_leaves_the_weight() -> None:
    model = adapted(gate="none")
    with torch.no_grad():
        layer(model, 2).gatera_A["default"][1, 2] = float("nan")
    before = layer(model, 2).base_layer.weight.detach().clone()
    with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer(model, 2).base_layer.weight, before)
    assert not layer(model, 2).merged


@pytest.mark.parametrize("delta", DELTAS)
def test_several_merged_adapters_add_up_and_unmerge_exactly(delta: str) -> None:
    model = adapted(gate="static", delta=delta).eval()
    model.add_adapter(
        "b", GateraConfig(r=2, gate="none", delta=delta, target_modules=["0"], init_weights=False)
    )
    before = layer(model).base_layer.weight.detach().clone()
    x = torch.randn(4, IN, dtype=torch.float64)
    model.base_model.set_adapter(["default", "b"])
    expected = model(x)
    deltas = sum(layer(model).get_delta_weight(name) for name in ("default", "b"))
    model.merge_adapter(adapter_names=["default"])
    with pytest.warns(UserWarning, match="Already following adapters were merged"):
        model.merge_adapter(adapter_names=["b"])
    torch.testing.assert_close(layer(model).base_layer.weight, before + deltas)
    torch.testing.assert_close(model(x), expected)
    model.unmerge_adapter()
    assert torch.equal(layer(model).base_layer.weight, before)


def test_active_adapters_add_their_updates() -> None:
    model = adapted(gate="token", delta="hira").eval()
    other = GateraConfig(r=2, gate="static", delta="lora", target_modules=["0"], init_weights=False)
    model.add_adapter("b", other)
    x = torch.randn(4, IN, dtype=torch.float64)
    module = layer(model)
    base = module.base_layer(x)
    expected = reference(module, x) + reference(module, x, "b") - base
    module.set_adapter(["default", "b"])
    torch.testing.assert_close(module(x), expected)
    module.set_adapter("b")
    torch.testing.assert_close(module(x), reference(module, x, "b"))


def test_disabled_adapter_gives_the_base_output_exactly() -> None:
    net = network()
    x = torch.randn(4, IN, dtype=torch.float64)
    expected = net(x)
    model = adapted(net, gate="token")
    assert not torch.allclose(model(x), expected)
    with model.disable_adapter():
        assert torch.equal(model(x), expected)
    assert not torch.allclose(model(x), expected)


def test_deleted_adapter_leaves_no_trace() -> None:
    model = adapted(gate="token", dropout=0.1)
    model.add_adapter("b", GateraConfig(r=2, gate="static", target_modules=["0"]))
    model.delete_adapter("b")
    module = layer(model)
    for attribute in (*module.adapter_layer_names, *module.other_param_names):
        assert "b" not in getattr(module, attribute), attribute
    model.delete_adapter("default")
    assert list(module.gatera_A.keys()) == []


def test_each_example_of_a_batch_can_have_its_own_adapter() -> None:
    model = adapted(gate="token", delta="hira").eval()
    model.add_adapter(
        "b", GateraConfig(r=2, gate="none", delta="lora", target_modules=["2"], init_weights=False)
    )
    x = torch.randn(5, 3, IN, dtype=torch.float64)
    names = ["b", "default", "__base__", "default", "b"]
    actual = model(x, adapter_names=names)
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                expected = model(x[row])
        else:
            model.set_adapter(name)
            expected = model(x[row])
        torch.testing.assert_close(actual[row], expected)


@pytest.mark.parametrize(
    ("names", "training", "message"),
    [
        (["nobody", "default"], False, r"non-existing adapter\(s\): nobody; the model has default"),
        (
            ["default"],
            False,
            "^Length of `adapter_names` should be the same as the number of inputs, but got 1 and",
        ),
        (
            ["default", "default"],
            True,
            "^Cannot pass `adapter_names` when the model is in training mode.",
        ),
        ("default", False, "adapter_names is a str; give a list"),
    ],
)
def test_wrong_adapter_names_are_refused(names: Any, training: bool, message: str) -> None:
    """In the words of PEFT, where it has some."""
    model = adapted().train(training)
    with pytest.raises(InputError, match=message):
        model(torch.randn(2, IN, dtype=torch.float64), adapter_names=names)


def test_mixed_batches_are_refused_while_merged() -> None:
    model = adapted(gate="none").eval()
    model.merge_adapter()
    message = (
        "^Cannot pass `adapter_names` when there are merged adapters, please call "
        r"`unmerge_adapter` first.*\['default'\]"
    )
    with pytest.raises(InputError, match=message):
        model(torch.randn(2, IN, dtype=torch.float64), adapter_names=["default", "default"])


def test_rank_and_alpha_patterns_apply_by_module() -> None:
    model = adapted(
        gate="none", delta="lora", alpha=8.0, rank_pattern={"2": 2}, alpha_pattern={"0": 1.0}
    )
    assert (layer(model).r["default"], layer(model).scaling["default"]) == (4, 0.25)
    assert (layer(model, 2).r["default"], layer(model, 2).scaling["default"]) == (2, 4.0)


def test_unsupported_modules_are_named() -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))
    message = r"target module '0' is a Embedding, which gatera cannot adapt"
    with pytest.raises(InputError, match=message):
        get_peft_model(net, GateraConfig(target_modules=["0"]))


def test_modules_to_save_are_trained_and_saved() -> None:
    model = adapted(target_modules=["0"], modules_to_save=["2"])
    model(torch.randn(4, IN, dtype=torch.float64)).sum().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert "base_model.model.2.modules_to_save.default.weight" in trained


def test_biases_of_adapted_layers_train_on_request() -> None:
    model = adapted(target_modules=["0"], gate="none", bias="gatera_only")
    model(torch.randn(4, IN, dtype=torch.float64)).square().sum().backward()
    bias = layer(model).base_layer.bias
    assert bias.grad is not None
    x = torch.randn(2, IN, dtype=torch.float64)
    module = layer(model)
    assert torch.autograd.gradcheck(lambda b: module(x), (bias,))


def test_trained_base_weights_get_their_gradient_too() -> None:
    for gate in GATES:
        module = layer(adapted(gate=gate))
        weight = module.base_layer.weight.requires_grad_()
        x = torch.randn(2, IN, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda w, module=module, x=x: module(x), (weight,)), gate


@pytest.mark.parametrize("gate", GATES)
def test_hooks_of_the_base_layer_still_run(gate: str) -> None:
    """Computing base layer and update together would bypass them."""
    model = adapted(gate=gate)
    seen = []
    layer(model).base_layer.register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(4, IN, dtype=torch.float64))
    assert seen == [1]


def test_a_model_can_be_copied_and_shown() -> None:
    model = adapted(gate="token")
    x = torch.randn(4, IN, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert isinstance(model.base_model, GateraModel)
    assert "gatera.GateraLinear" in repr(model)
    assert "(gatera_gate): ModuleDict" in repr(model)


class _Quantized(nn.Linear):
    """A stand-in for a layer whose weight cannot be read."""


def test_unreadable_quantized_weights_are_refused_for_hira(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend

    monkeypatch.setattr(
        "gatera.adapter.base_weight.resolve_quantization_backend",
        lambda base, **_: ForwardOnlyQuantizationBackend("gptq"),
    )
    net = nn.Sequential(_Quantized(IN, OUT))
    with pytest.raises(InputError, match=r"gptq layers \(_Quantized\) cannot give theirs back"):
        get_peft_model(net, GateraConfig(target_modules=["0"], delta="hira"))
    model = get_peft_model(
        nn.Sequential(_Quantized(IN, OUT)), GateraConfig(target_modules=["0"], delta="lora")
    )
    assert model(torch.randn(2, IN)).shape == (2, OUT)


def test_partitioned_weights_are_refused_for_hira() -> None:
    net = nn.Sequential(nn.Linear(IN, OUT))
    net[0].weight.ds_id = 3
    with pytest.raises(InputError, match="partitioned over processes"):
        get_peft_model(net, GateraConfig(target_modules=["0"]))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("delta", DELTAS)
def test_bfloat16_models_follow_the_float32_ones(gate: str, delta: str) -> None:
    exact = adapted(network(torch.float32), gate=gate, delta=delta).eval()
    lower = adapted(network(torch.bfloat16), gate=gate, delta=delta).eval()
    for name, parameter in lower.named_parameters():
        assert parameter.dtype == (torch.float32 if "gatera_" in name else torch.bfloat16), name
    x = torch.randn(6, IN)
    output = lower(x.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact(x), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = exact(x)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("gate", GATES)
def test_autocast_gives_gradients_close_to_those_of_float32(gate: str) -> None:
    gradients = []
    for enabled in (False, True):
        model = adapted(network(torch.float32), gate=gate)
        x = torch.linspace(-1, 1, 6 * IN).reshape(6, IN)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = model(x)
        output.float().square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0.1, atol=0.05 * scale)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("gate", GATES)
def test_compiled_layers_run_without_graph_breaks(gate: str, delta: str) -> None:
    module = layer(adapted(gate=gate, delta=delta))
    x = torch.randn(2, 3, IN, dtype=torch.float64)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = compiled(x)
    torch.testing.assert_close(actual, module(x))
    (expected,) = torch.autograd.grad(module(x).square().sum(), module.gatera_B["default"])
    (gradient,) = torch.autograd.grad(actual.square().sum(), module.gatera_B["default"])
    torch.testing.assert_close(gradient, expected)
