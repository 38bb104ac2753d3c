"""A gate with a value for each output channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.gates.passes import Preceding
from gatera.adapter.kernels.functional import wide_linear


class ChannelGate(Gate):
    """g(x) = σ(U V x + b), one value for each token and each output channel, U V of low rank.

    Ours: GateRA, arXiv:2511.17582, leaves richer gates open.
    """

    per_channel = True

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.weight_hidden = nn.Parameter(
            torch.empty(shape.hidden, shape.in_features, device=device)
        )
        self.weight = nn.Parameter(torch.empty(shape.out_features, shape.hidden, device=device))
        self.bias = nn.Parameter(torch.empty(shape.out_features, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return U V x + b, (..., out)."""
        hidden = wide_linear(x, self.weight_hidden, None)  # (..., hidden)
        return wide_linear(hidden, self.weight, self.bias)
