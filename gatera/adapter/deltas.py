"""The updates: what a gate is put before.

An update is described by which parameters it has and whether it is additive; `DELTAS` names them
all. A stands for a (r, in) and B for an (out, r) matrix, W for the frozen (out, in) weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.functional import hadamard_linear, hadamard_product


class Delta(Protocol):
    """What a layer asks of an update."""

    additive: ClassVar[bool]  # independent of W, and scaled by alpha
    needs_weight: ClassVar[bool]  # reads W in the forward pass

    def update(
        self, x: Tensor, W: Tensor, A: Tensor, B: Tensor, gate: Gated, dropout: nn.Module
    ) -> Tensor:
        """Return g · Δ(x), (..., out)."""

    def weight(self, W: Tensor, A: Tensor, B: Tensor, scale: float | Tensor) -> Tensor:
        """Return the weight that Δ adds to W, (out, in), times `scale`."""


class Gated:
    """The factor of one update: a number, times σ(logit) where there is a gate.

    `logit` is (..., 1) for a gate of the token and (1,) for one of the layer.
    """

    __slots__ = ("input_dependent", "logit", "scaling")

    def __init__(self, scaling: float, logit: Tensor | None, input_dependent: bool) -> None:
        self.scaling = scaling
        self.logit = logit
        self.input_dependent = input_dependent

    def value(self) -> Tensor | float:
        """The factor itself: a float, or a tensor of the logit's shape."""
        return self.scaling if self.logit is None else torch.sigmoid(self.logit) * self.scaling


class Hira:
    """Δ(x) = (W ⊙ (BA)) x, multiplicative, so without alpha.

    Source: HiRA, ICLR 2025.
    """

    additive: ClassVar[bool] = False
    needs_weight: ClassVar[bool] = True

    def update(
        self, x: Tensor, W: Tensor, A: Tensor, B: Tensor, gate: Gated, dropout: nn.Module
    ) -> Tensor:
        """Return g · (W ⊙ (BA)) x; a gate of the layer goes into B, where it costs nothing."""
        if gate.input_dependent:
            return hadamard_linear(dropout(x), W, A, B, gate.logit)
        return hadamard_linear(dropout(x), W, A, layer_scaled(B, gate), None)

    def weight(self, W: Tensor, A: Tensor, B: Tensor, scale: float | Tensor) -> Tensor:
        """Return scale · W ⊙ (BA), float32 or better."""
        wide = torch.promote_types(torch.promote_types(W.dtype, B.dtype), torch.float32)
        return hadamard_product(W, A.to(wide), (B * scale).to(wide), wide)


class Lora:
    """Δ(x) = alpha/r · BA x.

    Source: LoRA, arXiv:2106.09685.
    """

    additive: ClassVar[bool] = True
    needs_weight: ClassVar[bool] = False

    def update(
        self, x: Tensor, W: Tensor, A: Tensor, B: Tensor, gate: Gated, dropout: nn.Module
    ) -> Tensor:
        """Return g · alpha/r · BA x, the gate applied where the update is r wide."""
        narrow = F.linear(dropout(x), A)  # (..., r)
        if gate.logit is None:
            return F.linear(narrow, B) * gate.scaling
        return F.linear((narrow * gate.value()).to(narrow.dtype), B)

    def weight(self, W: Tensor, A: Tensor, B: Tensor, scale: float | Tensor) -> Tensor:
        """Return scale · BA, where scale holds alpha/r."""
        return torch.mm(B, A) * scale


def layer_scaled(B: Tensor, gate: Gated) -> Tensor:
    """Return g · B for a gate that does not depend on the token."""
    return B if gate.logit is None else B * torch.sigmoid(gate.logit).to(B.dtype)


DELTAS: Mapping[str, Delta] = {"hira": Hira(), "lora": Lora()}
