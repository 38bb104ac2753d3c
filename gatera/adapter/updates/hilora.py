"""HiRA's update and LoRA's in one."""

from __future__ import annotations

import torch
from torch import Tensor

from gatera.adapter.updates.base import Delta, GateValue, Parameters, Shape, UpdateInputs
from gatera.adapter.updates.hira import hadamard_update, hadamard_weight
from gatera.adapter.updates.lora import low_rank_update


class Hilora(Delta):
    """Δ(x) = (W ⊙ (BA)) x + alpha/r · B2 A2 x, a multiplicative and an additive update in one.

    Both parts have rank r, so at the same r it has twice the parameters of either; one gate acts
    on their sum.

    Source: HiRA, ICLR 2025, its combination with LoRA.
    """

    needs_weight = True
    costly = True

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of A, B, A2, B2."""
        first = super().shapes()
        return {**first, **{f"{name}2": shape for name, shape in first.items()}}

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        """Return g · ((W ⊙ (BA)) x + alpha/r · B2 A2 x)."""
        multiplicative = hadamard_update(inputs, p["A"], p["B"], gate)
        additive = low_rank_update(inputs.cast_x(), p["A2"], p["B2"], self.scaling, gate)
        return multiplicative + additive

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return W ⊙ (BA) + alpha/r · B2 A2."""
        assert W is not None
        multiplicative = hadamard_weight(W, p["A"], p["B"])
        return multiplicative + torch.mm(p["B2"], p["A2"]) * self.scaling
