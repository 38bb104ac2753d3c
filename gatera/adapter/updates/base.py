"""What all updates share: what they are computed from, and the gate that they are put behind.

An update Δ is a plain description of the parameters it needs and what it computes with them; each
has a file of its own in this folder. Throughout, x is (..., in), W the frozen weight (out, in),
A (r, in), B (out, r); `parameters` holds the tensors of one adapter on one layer by their short
names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from gatera.adapter.kernels.blocks import as_rows
from gatera.adapter.kernels.functional import Weight
from gatera.settings import GateraFields

Parameters = Mapping[str, Tensor]
Shape = tuple[int, ...]
GeneratorFor = Callable[[str], torch.Generator | None]
Affine = tuple[Tensor, Tensor, float]
"""w, (1, in), b, (1,), and the temperature of a gate whose logit is (w·x + b) / temperature."""


class ProductCache(Protocol):
    """Gives what was made from W and the update's parameters before, or makes it."""

    def __call__(
        self, key: str, build: Callable[[], Tensor], others: Iterable[Tensor] = ()
    ) -> Tensor:
        """Return what `build` returns; `others` are what it reads beside those parameters."""


class GateValue:
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

    def of(self, tokens: Tensor, threshold: float) -> GateValue:
        """Return the gate of some tokens, by their numbers, (tokens, ·)."""
        assert self.logit is not None
        return GateValue(
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
class UnreadGate:
    """The gate that an update is put behind, before it has read its input.

    Attributes:
        input_dependent: Whether its value differs from token to token.
        soft: Whether it is one value a token, or a layer, that no threshold closes; so is none.
        affine: What it computes, where it is the layer's own and computes nothing else.
        parameters: Gives its parameters.
        read: Evaluates it.
        tell: Takes its logit, (..., 1), from an update that computed it in the gate's place.
    """

    input_dependent: bool
    soft: bool
    affine: Affine | None
    parameters: Callable[[], Iterable[Tensor]]
    read: Callable[[], GateValue]
    tell: Callable[[Tensor], None]


NO_GATE = UnreadGate(
    input_dependent=False,
    soft=True,
    affine=None,
    parameters=tuple,
    read=lambda: GateValue(None, input_dependent=False),
    tell=lambda logit: None,
)


@dataclass(frozen=True)
class UpdateInputs:
    """What an update is computed from.

    Attributes:
        x: The input, (..., in), after dropout, in the type that the layer got.
        W: The frozen weight, (out, in), or what unpacks it; None where the update does not need it.
        base: Gives W x without the bias, (..., out).
        cached: Keeps products in evaluation; None in training.
        cast_to: The type that the input of a low-rank product is cast to; None leaves it.
    """

    x: Tensor
    W: Weight | None
    base: Callable[[], Tensor]
    cached: ProductCache | None
    cast_to: torch.dtype | None = None

    def weight(self) -> Tensor:
        """W, for the updates that declare `needs_weight`; a packed one is unpacked each time."""
        assert self.W is not None
        return self.W if isinstance(self.W, Tensor) else self.W()

    def of(self, tokens: Tensor) -> UpdateInputs:
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
    """What all updates share; an update of one's own derives from it and is named by path.

    `update` computes it. Where a class can do so together with the base layer or with the gate, it
    says how in `with_base` or `with_gate`: other ways to the same numbers, which a class that
    derives from it and has another `update` does not inherit.
    """

    scaled: ClassVar[bool] = True  # by alpha/r; multiplicative updates have no scale
    needs_weight: ClassVar[bool] = False  # reads W in the forward pass
    costly: ClassVar[bool] = False  # as costly as the base layer: skipping tokens pays
    adds_up: ClassVar[bool] = False  # linear in BA: a sum of such updates is one of higher rank
    joins_base: ClassVar[bool] = False  # has a `with_base`; found out for each class
    joins_gate: ClassVar[bool] = False  # has a `with_gate`; found out for each class

    in_features: int
    out_features: int
    r: int
    scaling: float

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.joins_base = _has_route(cls, "with_base")
        cls.joins_gate = _has_route(cls, "with_gate")

    @classmethod
    def configured(
        cls, in_features: int, out_features: int, r: int, scaling: float, config: GateraFields
    ) -> Self:
        """Make the update of one layer; one with settings of its own reads them in `config`."""
        return cls(in_features, out_features, r, scaling)

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

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        """Return g · Δ(x), (..., out)."""
        raise NotImplementedError

    def with_base(
        self, inputs: UpdateInputs, bias: Tensor | None, p: Parameters, gate: UnreadGate
    ) -> Tensor | None:
        """Return W x + bias + g · Δ(x), (..., out), or None where it is better done in parts.

        Called where the base layer is nothing but W and its bias, and the update reads what it
        reads.
        """
        return None

    def with_gate(self, inputs: UpdateInputs, p: Parameters, gate: UnreadGate) -> Tensor:
        """Return g · Δ(x), (..., out), and tell the gate's logit.

        Called where the gate is soft and affine, and the update reads what it reads.
        """
        raise NotImplementedError

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return the weight that Δ adds to W, (out, in), for a gate of 1."""
        raise NotImplementedError


def _has_route(cls: type[Delta], route: str) -> bool:
    """Whether a class has a route that computes what its own `update` does."""
    owner: type[Delta] = next(base for base in cls.__mro__ if route in vars(base))
    return owner is not Delta and owner.update is cls.update


def layer_scaled(B: Tensor, gate: GateValue) -> Tensor:
    """Return g · B for a gate that does not depend on the token."""
    return gate.applied(B)


def fill_uniform(parameter: Tensor, generator: torch.Generator | None) -> None:
    """Draw from ±1/sqrt(inputs)."""
    drawn = torch.rand(parameter.shape, generator=generator)
    parameter.copy_((2 * drawn - 1) / math.sqrt(parameter.shape[1]))
