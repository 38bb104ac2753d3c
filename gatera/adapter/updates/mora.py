"""The additive update of MoRA: one square matrix on a folded input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.updates.base import (
    Delta,
    GateValue,
    GeneratorFor,
    Parameters,
    Shape,
    UpdateInputs,
    fill_uniform,
)
from gatera.settings import GateraFields


@dataclass(frozen=True)
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

    mora_type: str = "rotate"

    @classmethod
    def configured(
        cls, in_features: int, out_features: int, r: int, scaling: float, config: GateraFields
    ) -> Self:
        """Make the update of one layer."""
        return cls(in_features, out_features, r, scaling, config.mora_type)

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
            fill_uniform(p["A"], generator_for("A"))

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        """Return g · alpha/r · decompress(M compress(x))."""
        return gate.applied(self._apply(inputs.cast_x(), p["A"]) * self.scaling)

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
