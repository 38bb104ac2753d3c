"""What all gates share.

A gate is a small module that returns the logit of g; g = σ(logit) is taken where the update is
computed, and the entropy regularizer needs the logit itself. Logits are computed in float32, or
in float64 where an input is. Each gate has a file of its own in this folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gatera.adapter.gates.passes import Preceding

GeneratorFor = Callable[[str], torch.Generator | None]


@dataclass(frozen=True)
class GateShape:
    """The sizes that a gate is built for."""

    in_features: int  # of what the gate reads: the layer's input, or the block's
    out_features: int  # of the adapted layer
    hidden: int  # width of a hidden layer, in the gates that have one


class Gate(nn.Module):
    """What all gates share; a gate of one's own derives from it and is named by path.

    A subclass makes its parameters in `__init__`, directly on itself, and returns the logit in
    `logit`: (..., 1), or (..., out) with `per_channel`, or (1,) without `input_dependent`.
    """

    input_dependent: ClassVar[bool] = True
    per_channel: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False  # whether `logit` needs the tokens before

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__()
        self.shape = shape
        self.temperature = temperature

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return the logit of g for x, (..., in)."""
        raise NotImplementedError

    def affine(self) -> tuple[Tensor, Tensor] | None:
        """Return w, (1, in), and b, (1,), where the logit is w·x + b and nothing else; else None.

        Its arithmetic can then join that of the layer.
        """
        return None

    def forward(self, x: Tensor, preceding: Preceding | None = None) -> Tensor:
        """Return the logit divided by the temperature."""
        logit = self.logit(x, preceding)
        return logit if self.temperature == 1.0 else logit / self.temperature

    @torch.no_grad()
    def reset(self, std: float, bias: float, generator_for: GeneratorFor) -> None:
        """Draw the initial values.

        `weight`, which makes the logit, is N(0, std²); other matrices are uniform in
        ±1/sqrt(their inputs), as nn.Linear's; `bias` is `bias`, other biases are 0.
        """
        for name, parameter in self.named_parameters():
            generator = generator_for(name)
            if name == "bias":
                parameter.fill_(bias)
            elif name == "weight":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            elif parameter.dim() == 2:
                drawn = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((2 * drawn - 1) / math.sqrt(parameter.shape[1]))
            else:
                parameter.zero_()

    def extra_repr(self) -> str:
        return f"in_features={self.shape.in_features}, temperature={self.temperature}"
