"""The gates: what decides how much of the update a token gets.

A gate is a small module that returns the logit of g; g = σ(logit) is taken where the update is
computed, and the entropy regularizer needs the logit itself. `GATES` names them all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gatera.adapter.functional import token_logit


class TokenGate(nn.Module):
    """g(x) = σ((w·x + b) / temperature), one value for each token.

    Source: GateRA, arXiv:2511.17582; the temperature is ours, 1 in the paper.
    """

    input_dependent = True

    def __init__(self, in_features: int, temperature: float, device: torch.device | None) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(torch.empty(1, in_features, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logit of each token of x (..., in): (..., 1), float32 or better."""
        logit = token_logit(x, self.weight, self.bias)
        return logit if self.temperature == 1.0 else logit / self.temperature

    @torch.no_grad()
    def reset(self, std: float, bias: float, generator: torch.Generator | None) -> None:
        """Draw w from N(0, std²) and set b."""
        self.weight.copy_(torch.randn(self.weight.shape, generator=generator) * std)
        self.bias.fill_(bias)

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[1]}, temperature={self.temperature}"


class StaticGate(nn.Module):
    """g = σ(b / temperature), one learned value a layer, whatever the input.

    Source: the static gate of the ablation in GateRA, arXiv:2511.17582.
    """

    input_dependent = False

    def __init__(self, in_features: int, temperature: float, device: torch.device | None) -> None:
        super().__init__()
        self.temperature = temperature
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def forward(self, x: Tensor | None = None) -> Tensor:
        """Return the logit, (1,), float32 or better."""
        dtype = torch.promote_types(self.bias.dtype, torch.float32)
        return self.bias.to(dtype) / self.temperature

    @torch.no_grad()
    def reset(self, std: float, bias: float, generator: torch.Generator | None) -> None:
        """Set b; nothing is drawn."""
        self.bias.fill_(bias)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


GATES: Mapping[str, type[TokenGate] | type[StaticGate] | None] = {
    "token": TokenGate,
    "static": StaticGate,
    "none": None,
}
