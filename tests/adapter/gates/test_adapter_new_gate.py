"""A new gate is one class and its line in the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_stack import IN, adapted, fit_to_one, stack
from peft import PeftModel
from torch import Tensor, nn

from gatera.adapter.gates import GATES
from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.gates.passes import Preceding
from gatera.adapter.gates.token import TokenGate


class Loudness(Gate):
    """g = σ(w · mean |x| + b), one value for each token."""

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.weight = nn.Parameter(torch.empty(1, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        return x.abs().mean(-1, keepdim=True).float() * self.weight + self.bias


class Fixed(Gate):
    """g = σ(b), of the layer, which can be merged."""

    input_dependent = False

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        return self.bias.float()


class Shifted(TokenGate):
    """Derives from a gate whose arithmetic joins the layer's, and computes something else."""

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        return super().logit(x, preceding) + 1


@pytest.mark.parametrize("gate", [Loudness, Fixed])
@pytest.mark.parametrize("delta", ["hira", "lora", "dora"])
def test_a_new_gate_trains_saves_loads_and_merges(
    gate: type[Gate], delta: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(GATES, "new", gate)  # type: ignore[misc]
    model = adapted(gate="new", delta=delta)
    x = torch.randn(11, IN)
    torch.testing.assert_close(model.eval()(x), stack()(x), rtol=1e-6, atol=1e-6)
    trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    losses, gates = fit_to_one(model, x)
    assert losses[-1] < losses[0]
    assert set(gates.statistics()) == {"0", "2"}
    unmoved = [n for n, p in model.named_parameters() if n in trained and p.equal(trained[n])]
    assert unmoved == []

    before = model.eval()(x)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(stack(), tmp_path).eval()
    torch.testing.assert_close(loaded(x), before, rtol=0, atol=0)
    if gate is Fixed:
        torch.testing.assert_close(loaded.merge_and_unload()(x), before)
    else:
        with pytest.raises(ValueError, match="cannot be merged: its gate"):
            loaded.merge_adapter()


@pytest.mark.parametrize("delta", ["hira", "lora"])
@pytest.mark.parametrize("training", [True, False])
def test_a_gate_that_derives_from_another_computes_its_own(
    delta: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GATES, "new", Shifted)  # type: ignore[misc]
    ours = adapted(gate="new", delta=delta, init_weights=False).train(training).base_model.model[0]
    monkeypatch.setitem(GATES, "new", TokenGate)  # type: ignore[misc]
    theirs = adapted(gate="new", delta=delta, init_weights=False, gate_bias=1.0)
    x = torch.randn(11, IN)
    torch.testing.assert_close(ours(x), theirs.train(training).base_model.model[0](x))
