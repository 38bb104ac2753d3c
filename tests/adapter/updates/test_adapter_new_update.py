"""A new update is one class and its line in the table; one that derives keeps no route it left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_stack import IN, adapted, fit_to_one, stack
from peft import PeftModel
from torch import Tensor, nn

from gatera import GateraConfig
from gatera.adapter.updates import DELTAS
from gatera.adapter.updates.base import (
    Delta,
    GateValue,
    Parameters,
    Shape,
    UnreadGate,
    UpdateInputs,
)
from gatera.adapter.updates.hira import Hira
from gatera.adapter.updates.lora import Lora


class Scales(Delta):
    """Δ(x) = s ⊙ W x, a learned factor for each output, at rank r or any other."""

    scaled = False
    needs_weight = True

    def shapes(self) -> dict[str, Shape]:
        return {"B": (self.out_features, 1)}

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        return gate.applied(inputs.base() * p["B"].squeeze(1))

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        assert W is not None
        return W * p["B"]


class JoinedScales(Scales):
    """The same, with the base layer where no token has a gate of its own."""

    joined = 0

    def with_base(
        self, inputs: UpdateInputs, bias: Tensor | None, p: Parameters, gate: UnreadGate
    ) -> Tensor | None:
        if gate.input_dependent:
            return None
        type(self).joined += 1
        y = nn.functional.linear(inputs.x, inputs.weight() * (1 + gate.read().applied(p["B"])))
        return y if bias is None else y + bias


@pytest.fixture(params=[Scales, JoinedScales])
def scales(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Delta]:
    delta: type[Delta] = request.param
    monkeypatch.setitem(DELTAS, "scales", delta)  # type: ignore[misc]
    return delta


@pytest.mark.parametrize("gate", ["none", "static", "token", "mlp"])
def test_a_new_update_trains_saves_loads_and_merges(
    gate: str, scales: type[Delta], tmp_path: Path
) -> None:
    model = adapted(gate=gate, delta="scales", dropout=0.1)
    x = torch.randn(11, IN)
    torch.testing.assert_close(model.eval()(x), stack()(x), rtol=0, atol=0)
    losses, _ = fit_to_one(model, x)
    assert losses[-1] < losses[0]
    before = model.eval()(x)
    layer = model.base_model.model[0]
    assert {name for name, _ in layer.named_parameters() if "_B" in name} == {"gatera_B.default"}

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(stack(), tmp_path).eval()
    torch.testing.assert_close(loaded(x), before, rtol=0, atol=0)
    if gate in ("none", "static"):
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(x), before)
    if scales is JoinedScales:
        assert bool(JoinedScales.joined) == (gate in ("none", "static"))
        JoinedScales.joined = 0


def test_a_new_update_is_refused_by_its_name_alone(scales: type[Delta]) -> None:
    with pytest.raises(ValueError, match=r"choose one of: dora, hilora, hira, lora, mora, scales"):
        GateraConfig(delta="scale")


class Doubled(Hira):
    """Derives from an update with a route, and computes something else."""

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        return 2 * super().update(inputs, p, gate)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        return 2 * super().weight(W, p)


class DoubledLora(Lora):
    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        return 2 * super().update(inputs, p, gate)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        return 2 * super().weight(W, p)


class Mixin:
    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        return 2 * super().update(inputs, p, gate)  # type: ignore[misc]


class MixedIn(Mixin, Hira):
    weight = Doubled.weight


class DrawnOtherwise(Hira):
    """Computes what HiRA does, from other initial values."""


@pytest.mark.parametrize(
    ("delta", "parent"),
    [(Doubled, "hira"), (DoubledLora, "lora"), (MixedIn, "hira")],
)
@pytest.mark.parametrize("gate", ["none", "static", "token"])
@pytest.mark.parametrize("training", [True, False])
def test_an_update_that_derives_from_another_computes_its_own(
    delta: type[Delta],
    parent: str,
    gate: str,
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not delta.joins_base
    assert not delta.joins_gate
    monkeypatch.setitem(DELTAS, "doubled", delta)  # type: ignore[misc]
    x = torch.randn(11, IN)
    fields = {"gate": gate, "init_weights": False}
    ours = adapted(delta="doubled", **fields).train(training).base_model.model[0]
    theirs = adapted(delta=parent, **fields).train(training).base_model.model[0]
    base = theirs.base_layer(x)
    torch.testing.assert_close(ours(x) - base, 2 * (theirs(x) - base))


def test_a_class_that_leaves_the_computation_alone_keeps_its_routes() -> None:
    assert DrawnOtherwise.joins_base
    assert Hira.joins_base
    assert Lora.joins_gate
    assert not Hira.joins_gate
    assert not Lora.joins_base
