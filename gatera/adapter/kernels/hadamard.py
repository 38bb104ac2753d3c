"""The Hadamard layer, D = W ⊙ (BA), as autograd functions.

They keep nothing of the weight's size for the backward pass: D costs r products a weight to build,
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
    gate_column,
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
    return _apply(x, W, A, B, logit, None, identity=0.0, fold=False)


def gated_hadamard_layer(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, logit: Tensor | None
) -> Tensor:
    """Return W x + bias + σ(logit) · (W ⊙ (BA)) x: base layer and update in one pass.

    The same as a linear layer plus `hadamard_linear`, with the sums done inside the products.
    """
    return _apply(x, W, A, B, logit, bias, identity=1.0, fold=False)


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
    outputs: tuple[Tensor, Tensor] = _TokenGatedLayer.apply(  # type: ignore[no-untyped-call]
        x, W, A, B, weight, gate_bias, bias, temperature
    )
    return outputs


def gated_linear(x: Tensor, D: Tensor, logit: Tensor | None) -> Tensor:
    """Return σ(logit) · D x for a product D, (out, in), that is at hand; without a logit, D x."""
    with without_autocast(x):
        y = F.linear(x.to(D.dtype), D)
        return y if logit is None else y * torch.sigmoid(logit).to(D.dtype)


def folded_hadamard_linear(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor
) -> Tensor:
    """Return (W ⊙ (1 + BA)) x + bias: base layer and ungated update in one product."""
    return _apply(x, W, A, B, None, bias, identity=1.0, fold=True)


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
    identity: float,
    fold: bool,
) -> Tensor:
    held, unpack = (W, None) if isinstance(W, Tensor) else (None, W)
    y: Tensor = _HadamardLinear.apply(  # type: ignore[no-untyped-call]
        x, held, A, B, logit, bias, identity, fold, unpack
    )
    return y


def _unpacked(W: Tensor | None, unpack: Callable[[], Tensor] | None) -> Tensor:
    """W, or what `unpack` makes where there is no W."""
    if W is not None:
        return W
    assert unpack is not None
    return unpack().detach()


class _HadamardLinear(torch.autograd.Function):
    """y = identity · W x + bias + g · D x with D = W ⊙ (BA), g = σ(logit) or 1, identity 0 or 1.

    Backward, with u = Dᵀ dy:  dx = identity · Wᵀ dy + g u,  dg = ⟨x, u⟩,  P = (g dy)ᵀ x,
    d(BA) = P ⊙ W, dB = (P ⊙ W) Aᵀ, dA = Bᵀ (P ⊙ W). Without a gate W and D are one weight in the
    backward pass, and with `fold` in the forward pass too.

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
        bias: Tensor | None,
        identity: float,
        fold: bool,
        unpack: Callable[[], Tensor] | None,
    ) -> Tensor:
        ctx.save_for_backward(x, W, A, B, logit, bias)
        ctx.dtype, ctx.identity, ctx.unpack = linear_dtype(x), identity, unpack
        W = _unpacked(W, unpack)
        with without_autocast(x):
            rows = as_rows(x).to(ctx.dtype)  # (tokens, in)
            if fold:
                y = folded_product(rows, W, A, B, bias)
            else:
                y = base_product(rows, W, bias, identity)
                add_update(y, rows, W, A, B, gate_column(logit, ctx.dtype))
            return y.view(*x.shape[:-1], W.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return (*differentiable_gradients(ctx, _equation, 6, grads), None, None, None)
        x, W, A, B, logit, _ = ctx.saved_tensors
        W = _unpacked(W, ctx.unpack)
        needs_x, needs_W, needs_A, needs_B, needs_logit, needs_bias = ctx.needs_input_grad[:6]
        d_x = d_logit = d_W = d_A = d_B = d_bias = None
        with without_autocast(x):
            d_y, rows = as_rows(grads[0]), as_rows(x).to(ctx.dtype)
            if needs_bias:
                d_bias = d_y.sum(0)
            gate = gate_column(logit, ctx.dtype)  # (tokens, 1)
            if gate is not None and (needs_x or needs_logit):
                d_x, d_gate = gated_input_gradients(d_y, rows, gate, W, A, B, ctx.identity)
                d_x, d_logit = (
                    d_x.view(x.shape).to(x.dtype),
                    logit_gradient(d_gate, torch.sigmoid(logit)),
                )
            elif needs_x:
                d_x = input_gradient(d_y, rows, W, A, B, ctx.identity).view(x.shape).to(x.dtype)
            if needs_A or needs_B:
                d_A, d_B = factor_gradients(d_y, rows, gate, W, A, B)
            if needs_W:
                d_W = weight_gradient(d_y, rows, gate, A, B, ctx.identity).to(W.dtype)
        return d_x, d_W, d_A, d_B, d_logit, d_bias, None, None, None


class _TokenGatedLayer(torch.autograd.Function):
    """The layer of `_HadamardLinear` with identity 1, and the token's gate within.

    The gate's part of dx, d_logit · w / temperature, is added where dx is made, which saves two
    passes over tensors of x's size.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        A: Tensor,
        B: Tensor,
        weight: Tensor,
        gate_bias: Tensor,
        bias: Tensor | None,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype, ctx.identity, ctx.temperature = linear_dtype(x), 1.0, temperature
        ctx.unpack = None
        with without_autocast(x):
            logit = wide_product(as_rows(x), weight, gate_bias)  # (tokens, 1)
            if temperature != 1.0:
                logit.div_(temperature)
            rows = as_rows(x).to(ctx.dtype)
            gate = torch.sigmoid(logit)
            y = base_product(rows, W, bias, 1.0)
            add_update(y, rows, W, A, B, gate.to(ctx.dtype))
            ctx.save_for_backward(x, W, A, B, weight, gate_bias, bias, gate)
            ctx.set_materialize_grads(False)
            tokens = x.shape[:-1]
            return y.view(*tokens, W.shape[0]), logit.view(*tokens, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None and grads[1] is None:
            return (None,) * 8
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return (*differentiable_gradients(ctx, _token_gated_equation, 7, grads), None)
        x, W, A, B, weight, gate_bias, _, wide_gate = ctx.saved_tensors
        needs_x, needs_W, needs_A, needs_B, needs_weight, needs_gate_bias, needs_bias = (
            ctx.needs_input_grad[:7]
        )
        d_x = d_W = d_A = d_B = d_weight = d_gate_bias = d_bias = None
        with without_autocast(x):
            rows, gate = as_rows(x).to(ctx.dtype), wide_gate.to(ctx.dtype)
            d_logit = None if grads[1] is None else as_rows(grads[1])  # of the gate's entropy
            if grads[0] is None:
                d_x = rows.new_zeros(rows.shape)
            else:
                d_y = as_rows(grads[0])
                d_x, d_gate = gated_input_gradients(d_y, rows, gate, W, A, B, 1.0)
                through_gate = logit_gradient(d_gate, wide_gate)
                d_logit = through_gate if d_logit is None else d_logit + through_gate
                if needs_A or needs_B:
                    d_A, d_B = factor_gradients(d_y, rows, gate, W, A, B)
                if needs_W:
                    d_W = weight_gradient(d_y, rows, gate, A, B, 1.0).to(W.dtype)
                if needs_bias:
                    d_bias = d_y.sum(0)
            assert d_logit is not None
            if ctx.temperature != 1.0:
                d_logit = d_logit / ctx.temperature
            if needs_x:
                d_x.addmm_(d_logit.to(d_x.dtype), weight.to(d_x.dtype))
            if needs_weight:
                d_weight = wide_weight_gradient(d_logit, as_rows(x), weight.dtype)
            if needs_gate_bias:
                d_gate_bias = d_logit.sum(0).to(gate_bias.dtype)
        return d_x.view(x.shape).to(x.dtype), d_W, d_A, d_B, d_weight, d_gate_bias, d_bias, None


def _equation(
    ctx: Any,
    x: Tensor,
    W: Tensor | None,
    A: Tensor,
    B: Tensor,
    logit: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor]:
    """What `_HadamardLinear` computes."""
    W = _unpacked(W, ctx.unpack)
    y = gated_linear(x.to(ctx.dtype), hadamard_product(W, A, B, ctx.dtype), logit)
    if ctx.identity != 0.0:
        y = y + F.linear(x.to(ctx.dtype), W.to(ctx.dtype))
    return (y if bias is None else y + bias.to(y.dtype),)


def _token_gated_equation(
    ctx: Any,
    x: Tensor,
    W: Tensor,
    A: Tensor,
    B: Tensor,
    weight: Tensor,
    gate_bias: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What `_TokenGatedLayer` computes."""
    dtype = logit_dtype(x, weight)
    logit = F.linear(x.to(dtype), weight.to(dtype), gate_bias.to(dtype)) / ctx.temperature
    return (*_equation(ctx, x, W, A, B, logit, bias), logit)
