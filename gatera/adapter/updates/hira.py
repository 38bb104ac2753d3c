"""The multiplicative update of HiRA."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels.blocks import hadamard_product
from gatera.adapter.kernels.functional import linear_dtype, without_autocast
from gatera.adapter.kernels.hadamard import (
    folded_hadamard_linear,
    folded_weight,
    gated_hadamard_layer,
    gated_linear,
    hadamard_linear,
    token_gated_hadamard_layer,
)
from gatera.adapter.updates.base import (
    Delta,
    Gated,
    Given,
    Parameters,
    UnreadGate,
    layer_scaled,
)


class Hira(Delta):
    """Δ(x) = (W ⊙ (BA)) x, multiplicative, so without alpha.

    Source: HiRA, ICLR 2025.
    """

    scaled = False
    needs_weight = True
    costly = True
    adds_up = True

    def update(self, given: Given, p: Parameters, gate: Gated) -> Tensor:
        """Return g · (W ⊙ (BA)) x; a gate of the layer goes into B, where it costs nothing."""
        return hadamard_update(given, p["A"], p["B"], gate)

    def with_base(
        self, given: Given, bias: Tensor | None, p: Parameters, gate: UnreadGate
    ) -> Tensor | None:
        """Return W x + bias + g · (W ⊙ (BA)) x, the sums done inside the products."""
        if not gate.soft:
            return None
        x, W, A, B = given.x, given.weight(), p["A"], p["B"]
        if given.remember is None and gate.affine is not None:
            y, logit = token_gated_hadamard_layer(x, W, bias, A, B, *gate.affine)
            gate.tell(logit)
            return y
        dtype = linear_dtype(x)
        # In low precision 1 + BA would round small updates away.
        exact = A.dtype == W.dtype == dtype and dtype in (torch.float32, torch.float64)
        if exact and not gate.input_dependent:
            return _folded(given, bias, A, B, gate)
        if given.remember is not None:
            return None
        gated = gate.read()
        if gated.input_dependent:
            return gated_hadamard_layer(x, W, bias, A, B, gated.logit)
        return gated_hadamard_layer(x, W, bias, A, layer_scaled(B, gated), None)

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


def _folded(given: Given, bias: Tensor | None, A: Tensor, B: Tensor, gate: UnreadGate) -> Tensor:
    """One product with W ⊙ (1 + g · BA); in evaluation that weight may be at hand."""
    W, B = given.weight(), layer_scaled(B, gate.read())
    if given.remember is None:
        return folded_hadamard_linear(given.x, W, bias, A, B)
    weight = given.remember("folded", lambda: folded_weight(W, A, B), gate.parameters())
    return F.linear(given.x, weight, bias)


def hadamard_weight(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(W.dtype, B.dtype), torch.float32)
    return hadamard_product(W, A.to(wide), B.to(wide), wide)
