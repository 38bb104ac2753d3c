"""A gate with one hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.gates.passes import Preceding
from gatera.adapter.kernels.functional import wide_linear


class MlpGate(Gate):
    """g(x) = σ(w · SiLU(V x + c) + b), a gate with one hidden layer.

    Ours: GateRA, arXiv:2511.17582, leaves richer gates open.
    """

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.weight_hidden = nn.Parameter(
            torch.empty(shape.hidden, shape.in_features, device=device)
        )
        self.bias_hidden = nn.Parameter(torch.empty(shape.hidden, device=device))
        self.weight = nn.Parameter(torch.empty(1, shape.hidden, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return the output of the hidden layer's readout, (..., 1)."""
        hidden = F.silu(wide_linear(x, self.weight_hidden, self.bias_hidden))  # (..., hidden)
        return wide_linear(hidden, self.weight, self.bias)
