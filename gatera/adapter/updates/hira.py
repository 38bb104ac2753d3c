"""The multiplicative update of HiRA."""

from __future__ import annotations

import torch
from torch import Tensor

from gatera.adapter.kernels.blocks import hadamard_product
from gatera.adapter.kernels.functional import linear_dtype, without_autocast
from gatera.adapter.kernels.hadamard import gated_linear, hadamard_linear
from gatera.adapter.updates.base import Delta, Gated, Given, Parameters, layer_scaled


class Hira(Delta):
    """Δ(x) = (W ⊙ (BA)) x, multiplicative, so without alpha.

    Source: HiRA, ICLR 2025.
    """

    scaled = False
    needs_weight = True
    costly = True

    def joins_base(self) -> bool:
        """Whether this is the class itself: one that derives from it may compute something else."""
        return type(self) is Hira

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · (W ⊙ (BA)) x; a gate of the layer goes into B, where it costs nothing."""
        return hadamard_update(given, p["A"], p["B"], gate)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return W ⊙ (BA), float32 or better."""
        assert W is not None
        return hadamard_weight(W, p["A"], p["B"])


def hadamard_update(given: Given, A: Tensor, B: Tensor, gate: Gated) -> Tensor:
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


def hadamard_weight(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(W.dtype, B.dtype), torch.float32)
    return hadamard_product(W, A.to(wide), B.to(wide), wide)
