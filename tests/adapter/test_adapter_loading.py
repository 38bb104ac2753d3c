"""Checkpoints that do not fit, weighted sums, and gates and updates of a user's own."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from gatera import GateraConfig
from gatera.adapter import load_own_delta, load_own_gate
from gatera.errors import InputError


def stack() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def adapted(**fields: Any) -> PeftModel:
    base = stack()
    torch.manual_seed(4)
    settings = {"r": 2, "init_weights": False, "target_modules": ["0", "2"], **fields}
    return get_peft_model(base, GateraConfig(**settings)).eval()


def x() -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(9))


# Checkpoints


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 3}, r"gatera_A.default has the shape \(2, 5\) in the file and \(3, 5\) in the mod"),
        ({"gate": "mlp"}, "it lacks 0.gatera_gate.default.bias_hidden"),
        ({"gate": "none"}, "it has the unknown .*gatera_gate"),
        ({"delta": "dora"}, "it lacks 0.gatera_magnitude.default"),
        ({"target_modules": ["0"]}, "it has the unknown .*2.gatera_A"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str, low_memory: bool
) -> None:
    adapted().save_pretrained(tmp_path)
    edit_config(tmp_path, **fields)
    with pytest.raises(InputError, match=message):
        PeftModel.from_pretrained(stack(), tmp_path, low_cpu_mem_usage=low_memory)


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    adapted().save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda held: {n: t for n, t in held.items() if "0.gatera_B" not in n})
    with pytest.raises(InputError, match=r"it lacks 0\.gatera_B\.default"):
        PeftModel.from_pretrained(stack(), tmp_path)


def test_the_weights_of_another_method_are_refused(tmp_path: Path) -> None:
    adapted().save_pretrained(tmp_path / "ours")
    lora = get_peft_model(stack(), LoraConfig(r=2, target_modules=["0", "2"]))
    lora.save_pretrained(tmp_path / "lora")
    weights = (tmp_path / "lora" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "ours" / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="saved by another method"):
        PeftModel.from_pretrained(stack(), tmp_path / "ours")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    adapted().save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    model = adapted()
    message = r"adapter_model\.safetensors is no whole safetensors file .*copy the adapter again"
    for load in (
        lambda: PeftModel.from_pretrained(stack(), tmp_path),
        lambda: PeftModel.from_pretrained(stack(), tmp_path.parent, subfolder=tmp_path.name),
        lambda: model.load_adapter(tmp_path, "cut"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load()
        assert isinstance(caught.value.__cause__, SafetensorError)
    assert list(model.peft_config) == ["default"]


def test_biases_and_saved_modules_still_load(tmp_path: Path) -> None:
    model = adapted(bias="all", target_modules=["0"], modules_to_save=["2"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    expected = model(x())
    model.save_pretrained(tmp_path)
    base = stack()
    with torch.no_grad():
        base[0].weight.add_(0.1)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(loaded(x()), expected)


# Weighted sums


@pytest.mark.parametrize("gate", ["none", "static"])
@pytest.mark.parametrize("delta", ["hira", "lora"])
def test_a_weighted_adapter_is_the_weighted_sum(gate: str, delta: str) -> None:
    alpha = {} if delta == "hira" else {"alpha": 5}
    model = adapted(gate=gate, delta=delta, gate_bias=0.4, **alpha)
    torch.manual_seed(6)
    other = {"r": 3, "init_weights": False, "target_modules": ["0", "2"], "rank_pattern": {"2": 1}}
    model.add_adapter("other", GateraConfig(gate=gate, delta=delta, gate_bias=-1.0, **other))
    weights = {"default": 0.7, "other": -0.2}
    layers = [model.base_model.model[0], model.base_model.model[2]]
    expected = [
        sum(w * layer.get_delta_weight(name) for name, w in weights.items()) for layer in layers
    ]
    model.add_weighted_adapter(list(weights), list(weights.values()), "sum")
    for layer, weight in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.get_delta_weight("sum"), weight, rtol=1e-5, atol=1e-6)
    assert [layer.r["sum"] for layer in layers] == [5, 3]
    model.set_adapter("sum")
    assert torch.isfinite(model(x())).all()


def test_a_weighted_adapter_is_saved_and_loaded(tmp_path: Path) -> None:
    model = adapted(gate="static", rank_pattern={"2": 1})
    model.add_weighted_adapter(["default"], [0.5], "lighter")
    model.set_adapter("lighter")
    expected = model(x())
    model.save_pretrained(tmp_path, selected_adapters=["lighter"])
    loaded = PeftModel.from_pretrained(stack(), tmp_path / "lighter").eval()
    torch.testing.assert_close(loaded(x()), expected)


@pytest.mark.parametrize(
    ("fields", "weights", "message"),
    [
        ({"gate": "token"}, [1.0], "the gate of an adapter to add up depends on the input"),
        ({"gate": "none", "delta": "dora"}, [1.0], "delta=dora do not add up to one adapter"),
        ({"gate": "none"}, [1.0, 2.0], "1 adapters and 2 weights"),
    ],
)
def test_sums_that_are_no_adapter_are_refused(
    fields: dict[str, Any], weights: list[float], message: str
) -> None:
    model = adapted(**fields)
    with pytest.raises(InputError, match=message):
        model.add_weighted_adapter(["default"], weights, "sum")
    assert list(model.peft_config) == ["default"]


def test_sums_of_unknown_or_taken_names_are_refused() -> None:
    model = adapted(gate="none")
    with pytest.raises(InputError, match=r"\['two'\] to add up do not exist; the model has: def"):
        model.add_weighted_adapter(["two"], [1.0], "sum")
    with pytest.raises(InputError, match="has an adapter 'default' already"):
        model.add_weighted_adapter(["default"], [1.0], "default")


# Gates and updates of one's own

OWN = '''
import torch
from torch import nn
from gatera.adapter import Delta, Gate

(MARK).write_text("was run")


class Ramp(Gate):
    """g = sigmoid of the mean of the input times a learned slope."""

    def __init__(self, shape, temperature, device):
        super().__init__(shape, temperature, device)
        self.weight = nn.Parameter(torch.empty(1, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x, preceding):
        return x.mean(-1, keepdim=True).float() * self.weight + self.bias


class Diagonal(Delta):
    """A learned factor for each output of the base layer."""

    needs_weight = True

    def shapes(self):
        return {"B": (self.out_features, 1)}

    def update(self, inputs, p, gate):
        return gate.applied(inputs.base() * p["B"].squeeze(1) * self.scaling)

    def weight(self, W, p):
        return W * p["B"] * self.scaling


class NoGate:
    pass
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    mark = f"__import__('pathlib').Path({str(tmp_path / 'mark')!r})"
    path.write_text(OWN.replace("(MARK)", mark))
    yield str(path)
    sys.modules.pop("gatera_own_own", None)


def test_a_gate_and_an_update_of_ones_own(own: str) -> None:
    gate, delta = f"{own}:Ramp", f"{own}:Diagonal"
    load_own_gate(gate)
    load_own_delta(delta)
    model = adapted(gate=gate, delta=delta, target_modules=["0"], gate_bias=0.3)
    layer = model.base_model.model[0]
    y = layer.base_layer(x()) - layer.base_layer.bias
    g = torch.sigmoid(x().mean(-1, keepdim=True) * layer.gatera_gate["default"].weight + 0.3)
    expected = layer.base_layer(x()) + g * y * layer.gatera_B["default"].squeeze(1)
    torch.testing.assert_close(layer(x()), expected)


def test_loading_a_checkpoint_never_runs_code(own: str, tmp_path: Path) -> None:
    gate = f"{own}:Ramp"
    load_own_gate(gate)
    adapted(gate=gate).save_pretrained(tmp_path / "saved")
    (tmp_path / "mark").unlink()
    from gatera.adapter import own as own_module

    own_module._loaded.clear()
    with pytest.raises(InputError, match=r"never run by loading .*load_own_gate"):
        PeftModel.from_pretrained(stack(), tmp_path / "saved")
    assert not (tmp_path / "mark").exists()
    load_own_gate(gate)
    assert (tmp_path / "mark").exists()
    loaded = PeftModel.from_pretrained(stack(), tmp_path / "saved").eval()
    torch.testing.assert_close(loaded(x()), adapted(gate=gate)(x()))


def test_changed_code_is_told_from_the_code_that_an_adapter_was_saved_with(
    own: str, tmp_path: Path
) -> None:
    gate, saved = f"{own}:Ramp", tmp_path / "saved"
    load_own_gate(gate)
    model = adapted(gate=gate)
    model.save_pretrained(saved)
    written = json.loads((saved / "adapter_config.json").read_text())
    assert written["sources"] == {gate: hashlib.sha256(Path(own).read_bytes()).hexdigest()}

    Path(own).write_text(Path(own).read_text() + "\n# changed\n")
    PeftModel.from_pretrained(stack(), saved)  # what was run before is what was saved
    load_own_gate(gate)
    with pytest.raises(
        InputError, match=rf"is not the code .*saved with: {re.escape(own)} has the sha256"
    ):
        PeftModel.from_pretrained(stack(), saved)
    assert GateraConfig(gate=gate).sources != written["sources"]

    for sources in ({"sources": {}}, {}):  # taken out; of a release that wrote none
        without = {name: value for name, value in written.items() if name != "sources"}
        (saved / "adapter_config.json").write_text(json.dumps({**without, **sources}))
        loaded = PeftModel.from_pretrained(stack(), saved).eval()
        torch.testing.assert_close(loaded(x()), model(x()))


def test_what_ships_has_no_source_of_its_own(own: str) -> None:
    assert GateraConfig().sources == {}
    load_own_delta(f"{own}:Diagonal")
    assert set(GateraConfig(delta=f"{own}:Diagonal").sources) == {f"{own}:Diagonal"}


def test_what_is_no_gate_is_refused(own: str) -> None:
    with pytest.raises(InputError, match=r"has no class 'NoGate' that derives from gatera's Gate"):
        load_own_gate(f"{own}:NoGate")
    with pytest.raises(InputError, match=r"which does not exist; give path/to/file.py:ClassName"):
        load_own_gate("nowhere.py:Gate")
