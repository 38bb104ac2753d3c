"""The Hadamard layer, D = W ⊙ (BA), as an autograd function.

It keeps nothing of the weight's size for the backward pass: D costs r products a weight to build,
little beside the T products of a forward pass over T tokens, so it is built again where it is
needed. `blocks` says how.

Shapes throughout: x (..., in), W (out, in), A (r, in), B (out, r), logit (..., 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels.blocks import (
    add_update,
    as_rows,
    base_product,
    factor_gradients,
    folded_product,
    gated_input_gradients,
    hadamard_product,
    input_gradient,
    logit_dtype,
    logit_gradient,
    weight_gradient,
    wide_product,
    wide_weight_gradient,
)
from gatera.adapter.kernels.functional import (
    Weight,
    differentiable_gradients,
    linear_dtype,
    without_autocast,
)


def hadamard_linear(x: Tensor, W: Weight, A: Tensor, B: Tensor, logit: Tensor | None) -> Tensor:
    """Return σ(logit) · (W ⊙ (BA)) x; without a logit the gate is 1.

    The products run in the type that a linear layer would use: autocast's, else x's.

    Source: GateRA, arXiv:2511.17582; the bound of its Theorem 1 holds for the gradients of A, B.
    """
    return _apply(x, W, A, B, logit, None, identity=0.0)[0]


def gated_hadamard_layer(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, logit: Tensor | None
) -> Tensor:
    """Return W x + bias + σ(logit) · (W ⊙ (BA)) x: base layer and update in one pass.

    The same as a linear layer plus `hadamard_linear`, with the sums done inside the products.
    """
    return _apply(x, W, A, B, logit, bias, identity=1.0)[0]


def token_gated_hadamard_layer(
    x: Tensor,
    W: Tensor,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    weight: Tensor,
    gate_bias: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return what `gated_hadamard_layer` returns, and the logit (w·x + b) / temperature.

    Args:
        x: Input, (..., in).
        W: Base weight, (out, in).
        bias: The base layer's bias, (out,).
        A: (r, in).
        B: (out, r).
        weight: The gate's w, (1, in).
        gate_bias: The gate's b, (1,).
        temperature: Divisor of the gate's logit.

    Returns:
        y, (..., out), in the type of a linear layer, and the logit, (..., 1), float32 or better.
    """
    gate = (weight, gate_bias, temperature)
    y, logit = _apply(x, W, A, B, None, bias, identity=1.0, gate=gate)
    assert logit is not None
    return y, logit


def gated_linear(x: Tensor, D: Tensor, logit: Tensor | None) -> Tensor:
    """Return σ(logit) · D x for a product D, (out, in), that is at hand; without a logit, D x."""
    with without_autocast(x):
        y = F.linear(x.to(D.dtype), D)
        return y if logit is None else y * torch.sigmoid(logit).to(D.dtype)


def folded_hadamard_linear(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor
) -> Tensor:
    """Return (W ⊙ (1 + BA)) x + bias: base layer and ungated update in one product."""
    return _apply(x, W, A, B, None, bias, identity=1.0, fold=True)[0]


def folded_weight(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return W ⊙ (1 + BA), (out, in)."""
    return W + torch.mm(B, A) * W


def _apply(
    x: Tensor,
    W: Weight,
    A: Tensor,
    B: Tensor,
    logit: Tensor | None,
    bias: Tensor | None,
    *,
    identity: float,
    fold: bool = False,
    gate: tuple[Tensor | None, Tensor | None, float] = (None, None, 1.0),
) -> tuple[Tensor, Tensor | None]:
    held, unpack = (W, None) if isinstance(W, Tensor) else (None, W)
    outputs: tuple[Tensor, Tensor | None] = _HadamardLayer.apply(  # type: ignore[no-untyped-call]
        x, held, A, B, logit, *gate[:2], bias, gate[2], identity, fold, unpack
    )
    return outputs


def _unpacked(W: Tensor | None, unpack: Callable[[], Tensor] | None) -> Tensor:
    """W, or what `unpack` makes where there is no W."""
    if W is not None:
        return W
    assert unpack is not None
    return unpack().detach()


_INPUTS = 8  # tensors, before what else the function is given


class _HadamardLayer(torch.autograd.Function):
    """y = identity · W x + bias + g · D x with D = W ⊙ (BA), g = σ(logit) or 1, identity 0 or 1.

    The logit is given, or made here of the token: (w·x + b) / temperature, and returned.

    Backward, with u = Dᵀ dy:  dx = identity · Wᵀ dy + g u,  dg = ⟨x, u⟩,  P = (g dy)ᵀ x,
    d(BA) = P ⊙ W, dB = (P ⊙ W) Aᵀ, dA = Bᵀ (P ⊙ W). Without a gate W and D are one weight in the
    backward pass, and with `fold` in the forward pass too. The part of dx of a gate that is made
    here is added where dx is made, which saves two passes over tensors of x's size.

    Blocks are cut so that no sum runs over several of them but those for dA, which are taken in
    float32: rows of W for y and P, columns of W for u.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor | None,
        A: Tensor,
        B: Tensor,
        logit: Tensor | None,
        weight: Tensor | None,
        gate_bias: Tensor | None,
        bias: Tensor | None,
        temperature: float,
        identity: float,
        fold: bool,
        unpack: Callable[[], Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.dtype, ctx.identity, ctx.unpack = linear_dtype(x), identity, unpack
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        tokens, held = x.shape[:-1], _unpacked(W, unpack)
        made = None  # the logit of the token, (tokens, 1)
        with without_autocast(x):
            if weight is not None:
                made = wide_product(as_rows(x), weight, gate_bias)
                if temperature != 1.0:
                    made.div_(temperature)
            gate = _gate(logit if made is None else made)
            rows = as_rows(x).to(ctx.dtype)  # (tokens, in)
            if fold:
                y = folded_product(rows, held, A, B, bias)
            else:
                y = base_product(rows, held, bias, identity)
                add_update(y, rows, held, A, B, None if gate is None else gate.to(ctx.dtype))
        made_gate = None if made is None else gate  # that of a logit at hand is made again
        ctx.save_for_backward(x, W, A, B, logit, weight, gate_bias, bias, made_gate)
        return y.view(*tokens, held.shape[0]), None if made is None else made.view(*tokens, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_y, d_made = grads
        if d_y is None and d_made is None:
            return (None,) * (_INPUTS + 4)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return (*differentiable_gradients(ctx, _equation, _INPUTS, grads), *(None,) * 4)
        x, W, A, B, logit, weight, gate_bias, _, made_gate = ctx.saved_tensors
        W = _unpacked(W, ctx.unpack)
        (
            needs_x,
            needs_W,
            needs_A,
            needs_B,
            needs_logit,
            needs_weight,
            needs_gate_bias,
            needs_bias,
        ) = ctx.needs_input_grad[:_INPUTS]
        d_x: Any = None
        d_W = d_A = d_B = d_logit = d_weight = d_gate_bias = d_bias = None
        with without_autocast(x):
            rows = as_rows(x).to(ctx.dtype)
            wide_gate = _gate(logit) if made_gate is None else made_gate  # (tokens, 1)
            gate = None if wide_gate is None else wide_gate.to(ctx.dtype)
            through_gate = None if d_made is None else as_rows(d_made)  # of the gate's entropy
            if d_y is None:
                d_x = torch.zeros_like(rows) if needs_x else None
            else:
                d_y = as_rows(d_y)
                needs_gate = needs_logit or needs_weight or needs_gate_bias
                if gate is not None and wide_gate is not None and (needs_x or needs_gate):
                    d_x, d_gate = gated_input_gradients(d_y, rows, gate, W, A, B, ctx.identity)
                    of_update = logit_gradient(d_gate, wide_gate)
                    through_gate = of_update if through_gate is None else through_gate + of_update
                elif needs_x:
                    d_x = input_gradient(d_y, rows, W, A, B, ctx.identity)
                if needs_A or needs_B:
                    d_A, d_B = factor_gradients(d_y, rows, gate, W, A, B)
                if needs_W:
                    d_W = weight_gradient(d_y, rows, gate, A, B, ctx.identity).to(W.dtype)
                if needs_bias:
                    d_bias = d_y.sum(0)
            if weight is not None and through_gate is not None:
                if ctx.temperature != 1.0:
                    through_gate = through_gate / ctx.temperature
                if needs_x:
                    d_x.addmm_(through_gate.to(d_x.dtype), weight.to(d_x.dtype))
                if needs_weight:
                    d_weight = wide_weight_gradient(through_gate, as_rows(x), weight.dtype)
                if needs_gate_bias:
                    d_gate_bias = through_gate.sum(0).to(gate_bias.dtype)
            elif needs_logit and through_gate is not None:
                d_logit = through_gate.view(logit.shape).to(logit.dtype)
        d_x = d_x.view(x.shape).to(x.dtype) if needs_x else None
        return d_x, d_W, d_A, d_B, d_logit, d_weight, d_gate_bias, d_bias, *(None,) * 4


def _gate(logit: Tensor | None) -> Tensor | None:
    """The gate of a logit as (tokens, 1), in its type."""
    return None if logit is None else torch.sigmoid(logit).reshape(-1, 1)


def _equation(
    ctx: Any,
    x: Tensor,
    W: Tensor | None,
    A: Tensor,
    B: Tensor,
    logit: Tensor | None,
    weight: Tensor | None,
    gate_bias: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """What `_HadamardLayer` computes."""
    W = _unpacked(W, ctx.unpack)
    made = None
    if weight is not None and gate_bias is not None:
        dtype = logit_dtype(x, weight)
        made = F.linear(x.to(dtype), weight.to(dtype), gate_bias.to(dtype)) / ctx.temperature
    D = hadamard_product(W, A, B, ctx.dtype)
    y = gated_linear(x.to(ctx.dtype), D, logit if made is None else made)
    if ctx.identity != 0.0:
        y = y + F.linear(x.to(ctx.dtype), W.to(ctx.dtype))
    return (y if bias is None else y + bias.to(y.dtype)), made
