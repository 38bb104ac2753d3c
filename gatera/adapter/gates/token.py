"""The token gate of GateRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.gates.passes import Preceding
from gatera.adapter.kernels.functional import wide_linear


class TokenGate(Gate):
    """g(x) = σ((w·x + b) / temperature), one value for each token.

    Source: GateRA, arXiv:2511.17582; the temperature is ours, 1 in the paper.
    """

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.weight = nn.Parameter(torch.empty(1, shape.in_features, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def affine(self) -> tuple[Tensor, Tensor] | None:
        """Return w and b; None in a class that derives from this one and may do more."""
        return (self.weight, self.bias) if type(self) is TokenGate else None

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return w·x + b, (..., 1)."""
        return wide_linear(x, self.weight, self.bias)
