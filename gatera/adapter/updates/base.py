"""What all updates share: what they are computed from, and the gate that they are put behind.

An update Δ is a plain description of the parameters it needs and what it computes with them; each
has a file of its own in this folder. Throughout, x is (..., in), W the frozen weight (out, in),
A (r, in), B (out, r); `parameters` holds the tensors of one adapter on one layer by their short
names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatera.adapter.kernels.blocks import as_rows
from gatera.adapter.kernels.functional import Weight

Parameters = Mapping[str, Tensor]
Shape = tuple[int, ...]
GeneratorFor = Callable[[str], torch.Generator | None]
Remember = Callable[[str, Callable[[], Tensor]], Tensor]


class Gated:
    """The value of a gate, where there is one: σ(logit), and 0 below a threshold.

    `logit` is (..., 1) for a gate of the token, (..., out) for one of its channels, (1,) for one
    of the layer.
    """

    __slots__ = ("input_dependent", "logit", "per_channel", "threshold")

    def __init__(
        self,
        logit: Tensor | None,
        *,
        input_dependent: bool,
        per_channel: bool = False,
        threshold: float = 0.0,
    ) -> None:
        self.logit = logit
        self.input_dependent = input_dependent
        self.per_channel = per_channel
        self.threshold = threshold

    @property
    def of_tokens(self) -> bool:
        """Whether the gate is one soft value a token, which the fused products know."""
        return self.input_dependent and not self.per_channel and self.threshold == 0.0

    def value(self) -> Tensor | None:
        """The gate itself, of the logit's shape; None where there is none."""
        if self.logit is None:
            return None
        gate = torch.sigmoid(self.logit)
        return torch.where(gate < self.threshold, 0.0, gate) if self.threshold > 0.0 else gate

    def of(self, tokens: Tensor, threshold: float) -> Gated:
        """Return the gate of some tokens, by their numbers, (tokens, ·)."""
        assert self.logit is not None
        return Gated(
            as_rows(self.logit)[tokens],
            input_dependent=True,
            per_channel=self.per_channel,
            threshold=threshold,
        )

    def applied(self, y: Tensor) -> Tensor:
        """Return g · y for y of the output's width, or narrower where g is no channel's."""
        gate = self.value()
        return y if gate is None else y * gate.to(y.dtype)


@dataclass(frozen=True)
class Given:
    """What an update is computed from.

    Attributes:
        x: The input, (..., in), after dropout, in the type that the layer got.
        W: The frozen weight, (out, in), or what unpacks it; None where the update does not need it.
        base: Gives W x without the bias, (..., out).
        remember: In evaluation, gives what was made from the parameters before, or makes it;
            None in training.
        cast_to: The type that the input of a low-rank product is cast to; None leaves it.
    """

    x: Tensor
    W: Weight | None
    base: Callable[[], Tensor]
    remember: Remember | None
    cast_to: torch.dtype | None = None

    def weight(self) -> Tensor:
        """W, for the updates that declare `needs_weight`; a packed one is unpacked each time."""
        assert self.W is not None
        return self.W if isinstance(self.W, Tensor) else self.W()

    def of(self, tokens: Tensor) -> Given:
        """Return what the update of some tokens is computed from, x as (tokens, in)."""
        return replace(
            self,
            x=as_rows(self.x)[tokens],
            base=lambda: as_rows(self.base())[tokens],
        )

    def cast_x(self) -> Tensor:
        """The input in the type of the adapter's parameters."""
        return self.x if self.cast_to is None else self.x.to(self.cast_to)


@dataclass(frozen=True)
class Delta:
    """What all updates share; an update of one's own derives from it and is named by path."""

    scaled: ClassVar[bool] = True  # by alpha/r; multiplicative updates have no scale
    needs_weight: ClassVar[bool] = False  # reads W in the forward pass
    costly: ClassVar[bool] = False  # as costly as the base layer: skipping tokens pays

    in_features: int
    out_features: int
    r: int
    scaling: float
    mora_type: str = "rotate"

    def shapes(self) -> dict[str, Shape]:
        """Return the parameters, by their short names, and their shapes."""
        return {"A": (self.r, self.in_features), "B": (self.out_features, self.r)}

    def reset(
        self, p: Parameters, W: Tensor | None, identity: bool, generator_for: GeneratorFor
    ) -> None:
        """Draw the initial values in place.

        Matrices A are uniform in ±1/sqrt(their inputs), as nn.Linear's weight; matrices B are
        zero where `identity` asks for an update that changes nothing, else uniform as A.
        """
        for name, parameter in p.items():
            if identity and name.startswith("B"):
                parameter.zero_()
            else:
                fill_uniform(parameter, generator_for(name))

    def joins_base(self) -> bool:
        """Whether Δ is (W ⊙ (BA)) x and nothing else, so that it can be computed with W x."""
        return False

    def joins_gate(self) -> bool:
        """Whether Δ is alpha/r · BA x and nothing else, so that it can be computed with w·x + b."""
        return False

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · Δ(x), (..., out)."""
        raise NotImplementedError

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return the weight that Δ adds to W, (out, in), for a gate of 1."""
        raise NotImplementedError


def layer_scaled(B: Tensor, gate: Gated) -> Tensor:
    """Return g · B for a gate that does not depend on the token."""
    return gate.applied(B)


def fill_uniform(parameter: Tensor, generator: torch.Generator | None) -> None:
    """Draw from ±1/sqrt(inputs)."""
    drawn = torch.rand(parameter.shape, generator=generator)
    parameter.copy_((2 * drawn - 1) / math.sqrt(parameter.shape[1]))
