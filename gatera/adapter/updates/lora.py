"""The additive update of LoRA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.updates.base import Delta, Gated, Given, Parameters


class Lora(Delta):
    """Δ(x) = alpha/r · BA x.

    Source: LoRA, arXiv:2106.09685; alpha/sqrt(r) is rank-stabilized LoRA, arXiv:2312.03732.
    """

    def joins_gate(self) -> bool:
        """Whether this is the class itself: one that derives from it may compute something else."""
        return type(self) is Lora

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · alpha/r · BA x, a gate of the token applied where the update is r wide."""
        return low_rank_update(given.cast_x(), p["A"], p["B"], self.scaling, gate)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return alpha/r · BA."""
        return torch.mm(p["B"], p["A"]) * self.scaling


def low_rank_update(x: Tensor, A: Tensor, B: Tensor, scaling: float, gate: Gated) -> Tensor:
    narrow = F.linear(x, A)  # (..., r)
    if gate.per_channel or gate.logit is None:
        return gate.applied(F.linear(narrow, B) * scaling)
    return F.linear(gate.applied(narrow) * scaling, B)
