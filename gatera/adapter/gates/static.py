"""The static gate: one value a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.gates.passes import Preceding


class StaticGate(Gate):
    """g = σ(b / temperature), one learned value a layer, whatever the input.

    Source: the static gate of the ablation in GateRA, arXiv:2511.17582.
    """

    input_dependent = False

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return b, (1,)."""
        return self.bias.to(torch.promote_types(self.bias.dtype, torch.float32))
