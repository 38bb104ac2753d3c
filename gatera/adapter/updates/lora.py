"""The additive update of LoRA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels.functional import linear_dtype
from gatera.adapter.kernels.low_rank import token_gated_low_rank
from gatera.adapter.updates.base import Delta, GateValue, Parameters, UnreadGate, UpdateInputs


class Lora(Delta):
    """Δ(x) = alpha/r · BA x.

    Source: LoRA, arXiv:2106.09685; alpha/sqrt(r) is rank-stabilized LoRA, arXiv:2312.03732.
    """

    adds_up = True

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        """Return g · alpha/r · BA x, a gate of the token applied where the update is r wide."""
        return low_rank_update(inputs.cast_x(), p["A"], p["B"], self.scaling, gate)

    def with_gate(self, inputs: UpdateInputs, p: Parameters, gate: UnreadGate) -> Tensor:
        """Return g · alpha/r · BA x, w·x and A x from one product."""
        assert gate.affine is not None
        x, dtype = inputs.x, linear_dtype(inputs.x)
        if inputs.cast_to is not None and not torch.is_autocast_enabled(x.device.type):
            dtype = inputs.cast_to
        y, logit = token_gated_low_rank(x, p["A"], p["B"], *gate.affine, self.scaling, dtype)
        gate.tell(logit)
        return y

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return alpha/r · BA."""
        return torch.mm(p["B"], p["A"]) * self.scaling


def low_rank_update(x: Tensor, A: Tensor, B: Tensor, scaling: float, gate: GateValue) -> Tensor:
    narrow = F.linear(x, A)  # (..., r)
    if gate.per_channel or gate.logit is None:
        return gate.applied(F.linear(narrow, B) * scaling)
    return F.linear(gate.applied(narrow) * scaling, B)
