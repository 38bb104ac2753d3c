"""The updates: what a gate is put before.

An update Δ is a plain description of the parameters it needs and what it computes with them;
`DELTAS` names them all. Throughout, x is (..., in), W the frozen weight (out, in), A (r, in),
B (out, r); `parameters` holds the tensors of one adapter on one layer by their short names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.blocks import as_rows
from gatera.adapter.functional import (
    Weight,
    gated_linear,
    hadamard_linear,
    hadamard_product,
    linear_dtype,
    without_autocast,
)

MORA_TYPES = ("rotate", "share")

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
                _fill_uniform(parameter, generator_for(name))

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · Δ(x), (..., out)."""
        raise NotImplementedError

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return the weight that Δ adds to W, (out, in), for a gate of 1."""
        raise NotImplementedError


class Hira(Delta):
    """Δ(x) = (W ⊙ (BA)) x, multiplicative, so without alpha.

    Source: HiRA, ICLR 2025.
    """

    scaled = False
    needs_weight = True
    costly = True

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · (W ⊙ (BA)) x; a gate of the layer goes into B, where it costs nothing."""
        return _hadamard_update(given, p["A"], p["B"], gate)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return W ⊙ (BA), float32 or better."""
        assert W is not None
        return _hadamard_weight(W, p["A"], p["B"])


class Lora(Delta):
    """Δ(x) = alpha/r · BA x.

    Source: LoRA, arXiv:2106.09685; alpha/sqrt(r) is rank-stabilized LoRA, arXiv:2312.03732.
    """

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · alpha/r · BA x, a gate of the token applied where the update is r wide."""
        return _low_rank_update(given.cast_x(), p["A"], p["B"], self.scaling, gate)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return alpha/r · BA."""
        return torch.mm(p["B"], p["A"]) * self.scaling


class Hilora(Delta):
    """Δ(x) = (W ⊙ (BA)) x + alpha/r · B2 A2 x, a multiplicative and an additive update in one.

    Both parts have rank r, so at the same r it has twice the parameters of either; one gate acts
    on their sum.

    Source: HiRA, ICLR 2025, its combination with LoRA.
    """

    needs_weight = True
    costly = True

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of A, B, A2, B2."""
        first = super().shapes()
        return {**first, **{f"{name}2": shape for name, shape in first.items()}}

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · ((W ⊙ (BA)) x + alpha/r · B2 A2 x)."""
        multiplicative = _hadamard_update(given, p["A"], p["B"], gate)
        additive = _low_rank_update(given.cast_x(), p["A2"], p["B2"], self.scaling, gate)
        return multiplicative + additive

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return W ⊙ (BA) + alpha/r · B2 A2."""
        assert W is not None
        multiplicative = _hadamard_weight(W, p["A"], p["B"])
        return multiplicative + torch.mm(p["B2"], p["A2"]) * self.scaling


class Dora(Delta):
    """Δ(x) = (m / ‖V‖ ⊙ V - W) x with V = W + alpha/r · BA, norms over the inputs of each output.

    The gate acts on the whole difference from the frozen layer, y = W x + g · (W_dora x - W x):
    a closed gate gives the base layer back, and an open one DoRA. A gate on BA inside V would
    leave the magnitude ungated, and its norm would be another one for each token. As in DoRA
    (its section 4.3) the norm is a constant to the gradient.

    Source: DoRA, arXiv:2402.09353.
    """

    needs_weight = True

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of A, B and the magnitude m (out,)."""
        return {**super().shapes(), "magnitude": (self.out_features,)}

    def reset(
        self, p: Parameters, W: Tensor | None, identity: bool, generator_for: GeneratorFor
    ) -> None:
        """Draw A and B, and set m to the norms of V."""
        assert W is not None
        low_rank = {name: p[name] for name in ("A", "B")}
        super().reset(low_rank, W, identity, generator_for)
        # Parameters are made where generators draw, and W may lie on an accelerator already.
        beside_W = {name: factor.to(W.device) for name, factor in low_rank.items()}
        p["magnitude"].copy_(self._norm(W, beside_W))

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · ((m/‖V‖ - 1) ⊙ W x + m/‖V‖ ⊙ alpha/r · BA x)."""
        W = given.weight()
        if given.remember is None:
            norm = self._norm(W, p)
        else:
            norm = given.remember("norm", lambda: self._norm(W, p))
        low_rank = F.linear(F.linear(given.cast_x(), p["A"]), p["B"])
        scale = p["magnitude"] / norm  # (out,)
        return gate.applied((scale - 1) * given.base() + scale * low_rank * self.scaling)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return m/‖V‖ ⊙ V - W."""
        assert W is not None
        V = W + self.scaling * torch.mm(p["B"], p["A"])
        return (p["magnitude"] / self._norm(W, p)).unsqueeze(1) * V - W

    @torch.no_grad()
    def _norm(self, W: Tensor, p: Parameters) -> Tensor:
        """‖V‖ of each output, (out,), rounded to W's type as the magnitude once was."""
        with without_autocast(W):
            V = W + self.scaling * torch.mm(p["B"], p["A"])
            norm: Tensor = torch.linalg.vector_norm(V, dim=1)
            return norm.to(W.dtype)


class Mora(Delta):
    """Δ(x) = decompress(M compress(x)), with one square matrix M in place of B and A.

    M is (n, n), n = ⌊sqrt((in + out) r)⌋, so that it has no more parameters than LoRA at rank r.
    The input is cut into groups of n, the last filled up from the input's beginning. With
    "share" the groups are summed, and the output is repeated up to its width. With "rotate" (n
    even) each group is rotated by its number, as positions are in RoPE, M maps each, and the
    outputs follow each other. M starts at zero. alpha/r scales it; alpha None is MoRA's own 1.

    Source: MoRA, arXiv:2405.12130; the filling up and the repetition from kongds/MoRA,
    commit d0528b4, types 1 and 6.
    """

    def side(self) -> int:
        """Return n."""
        n = math.isqrt((self.in_features + self.out_features) * self.r)
        return max(2, n // 2 * 2) if self.mora_type == "rotate" else max(1, n)

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of M, which goes by the name A."""
        return {"A": (self.side(), self.side())}

    def reset(
        self, p: Parameters, W: Tensor | None, identity: bool, generator_for: GeneratorFor
    ) -> None:
        """Set M to zero, or draw it."""
        if identity:
            p["A"].zero_()
        else:
            _fill_uniform(p["A"], generator_for("A"))

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · alpha/r · decompress(M compress(x))."""
        return gate.applied(self._apply(given.cast_x(), p["A"]) * self.scaling)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return the matrix that the update is, by applying it to each unit vector."""
        M = p["A"]
        units = torch.eye(self.in_features, dtype=M.dtype, device=M.device)
        return self._apply(units, M).t() * self.scaling

    def _apply(self, x: Tensor, M: Tensor) -> Tensor:
        n = M.shape[0]
        groups = _groups(x, n)  # (..., groups, n)
        if self.mora_type == "share":
            return _repeated(F.linear(groups.sum(-2), M), self.out_features)
        return _repeated(F.linear(_rotated(groups), M).flatten(-2), self.out_features)


def _hadamard_update(given: Given, A: Tensor, B: Tensor, gate: Gated) -> Tensor:
    """g · (W ⊙ (BA)) x by the cheapest route that the gate allows."""
    x, W = given.x, given.W
    assert W is not None
    if given.remember is not None:
        dtype = linear_dtype(x)

        def build() -> Tensor:
            with without_autocast(x):
                return hadamard_product(given.weight(), A, B, dtype)

        D = given.remember(f"product {dtype}", build)
        if gate.of_tokens:
            return gated_linear(x, D, gate.logit)
        return gate.applied(gated_linear(x, D, None))
    if gate.of_tokens:
        return hadamard_linear(x, W, A, B, gate.logit)
    if gate.input_dependent:
        return gate.applied(hadamard_linear(x, W, A, B, None))
    return hadamard_linear(x, W, A, layer_scaled(B, gate), None)


def _hadamard_weight(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(W.dtype, B.dtype), torch.float32)
    return hadamard_product(W, A.to(wide), B.to(wide), wide)


def _low_rank_update(x: Tensor, A: Tensor, B: Tensor, scaling: float, gate: Gated) -> Tensor:
    narrow = F.linear(x, A)  # (..., r)
    if gate.per_channel or gate.logit is None:
        return gate.applied(F.linear(narrow, B) * scaling)
    return F.linear(gate.applied(narrow) * scaling, B)


def layer_scaled(B: Tensor, gate: Gated) -> Tensor:
    """Return g · B for a gate that does not depend on the token."""
    return gate.applied(B)


def _groups(x: Tensor, n: int) -> Tensor:
    """Cut (..., in) into (..., groups, n), the last group filled up from the beginning of x."""
    missing = -x.shape[-1] % n
    if missing:
        filling = [x] * (missing // x.shape[-1]) + [x[..., : missing % x.shape[-1]]]
        x = torch.cat([x, *filling], dim=-1)
    return x.view(*x.shape[:-1], -1, n)


def _rotated(groups: Tensor) -> Tensor:
    """Rotate group i of (..., groups, n) by the angles i / 10000^(2k/n) of its n/2 planes."""
    count, n = groups.shape[-2:]
    wide = torch.promote_types(groups.dtype, torch.float32)
    planes = torch.arange(0, n, 2, dtype=wide, device=groups.device)
    positions = torch.arange(count, dtype=wide, device=groups.device)
    angles = torch.outer(positions, 10000.0 ** (-planes / n))  # (groups, n/2)
    cos, sin = angles.cos().to(groups.dtype), angles.sin().to(groups.dtype)
    first, second = groups.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _repeated(y: Tensor, width: int) -> Tensor:
    """Repeat (..., n) along its last axis up to `width`, or cut it there."""
    times = -(-width // y.shape[-1])
    return torch.cat([y] * times, dim=-1)[..., :width] if times > 1 else y[..., :width]


def _fill_uniform(parameter: Tensor, generator: torch.Generator | None) -> None:
    """Draw from ±1/sqrt(inputs)."""
    drawn = torch.rand(parameter.shape, generator=generator)
    parameter.copy_((2 * drawn - 1) / math.sqrt(parameter.shape[1]))


DELTAS: Mapping[str, type[Delta]] = {
    "hira": Hira,
    "lora": Lora,
    "dora": Dora,
    "mora": Mora,
    "hilora": Hilora,
}
