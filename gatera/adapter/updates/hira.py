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
    GateValue,
    Parameters,
    UnreadGate,
    UpdateInputs,
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

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        """Return g · (W ⊙ (BA)) x; a gate of the layer goes into B, where it costs nothing."""
        return hadamard_update(inputs, p["A"], p["B"], gate)

    def with_base(
        self, inputs: UpdateInputs, bias: Tensor | None, p: Parameters, gate: UnreadGate
    ) -> Tensor | None:
        """Return W x + bias + g · (W ⊙ (BA)) x, the sums done inside the products."""
        if not gate.soft:
            return None
        x, W, A, B = inputs.x, inputs.weight(), p["A"], p["B"]
        if inputs.cached is None and gate.affine is not None:
            y, logit = token_gated_hadamard_layer(x, W, bias, A, B, *gate.affine)
            gate.tell(logit)
            return y
        dtype = linear_dtype(x)
        # In low precision 1 + BA would round small updates away.
        exact = A.dtype == W.dtype == dtype and dtype in (torch.float32, torch.float64)
        if exact and not gate.input_dependent:
            return _folded(inputs, bias, A, B, gate)
        if inputs.cached is not None:
            return None
        gate_value = gate.read()
        if gate_value.input_dependent:
            return gated_hadamard_layer(x, W, bias, A, B, gate_value.logit)
        return gated_hadamard_layer(x, W, bias, A, layer_scaled(B, gate_value), None)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return W ⊙ (BA), float32 or better."""
        assert W is not None
        return hadamard_weight(W, p["A"], p["B"])


def hadamard_update(inputs: UpdateInputs, A: Tensor, B: Tensor, gate: GateValue) -> Tensor:
    """g · (W ⊙ (BA)) x by the cheapest route that the gate allows."""
    x, W = inputs.x, inputs.W
    assert W is not None
    if inputs.cached is not None:
        dtype = linear_dtype(x)

        def build() -> Tensor:
            with without_autocast(x):
                return hadamard_product(inputs.weight(), A, B, dtype)

        D = inputs.cached(f"product {dtype}", build)
        if gate.of_tokens:
            return gated_linear(x, D, gate.logit)
        return gate.applied(gated_linear(x, D, None))
    if gate.of_tokens:
        return hadamard_linear(x, W, A, B, gate.logit)
    if gate.input_dependent:
        return gate.applied(hadamard_linear(x, W, A, B, None))
    return hadamard_linear(x, W, A, layer_scaled(B, gate), None)


def _folded(
    inputs: UpdateInputs, bias: Tensor | None, A: Tensor, B: Tensor, gate: UnreadGate
) -> Tensor:
    """One product with W ⊙ (1 + g · BA); in evaluation that weight may be at hand."""
    W, B = inputs.weight(), layer_scaled(B, gate.read())
    if inputs.cached is None:
        return folded_hadamard_linear(inputs.x, W, bias, A, B)
    weight = inputs.cached("folded", lambda: folded_weight(W, A, B), gate.parameters())
    return F.linear(inputs.x, weight, bias)


def hadamard_weight(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(W.dtype, B.dtype), torch.float32)
    return hadamard_product(W, A.to(wide), B.to(wide), wide)
