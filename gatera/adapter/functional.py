"""The method's arithmetic as free functions of tensors.

The Hadamard updates are autograd functions that keep nothing of the weight's size for the
backward pass: D = W ⊙ (BA) costs r products a weight to build, little beside the T products of a
forward pass over T tokens, so it is built again where it is needed.

Shapes throughout: x (..., in), W (out, in), A (r, in), B (out, r), logit (..., 1).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def binary_entropy(logit: Tensor) -> Tensor:
    """Entropy in nats of a Bernoulli variable with probability σ(logit), elementwise.

    Written with softplus, since log σ(z) is -inf already at moderate logits.

    Source: the regularizer of GateRA, arXiv:2511.17582.
    """
    gate = torch.sigmoid(logit)
    return gate * F.softplus(-logit) + (1 - gate) * F.softplus(logit)


def token_logit(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return w·x + b for each token, computed in float32 or better.

    Args:
        x: Input, (..., in), any floating type.
        weight: w, (1, in).
        bias: b, (1,).

    Returns:
        (..., 1), float32, or float64 where an input is.
    """
    dtype = logit_dtype(x, weight)
    if x.dtype == dtype and not torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight.to(dtype), bias.to(dtype))
    logit: Tensor = _TokenLogit.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return logit


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `weight` x + bias for the small matrices of a gate, in float32 or better.

    Args:
        x: Input, (..., in), any floating type; kept for the backward pass as it is.
        weight: (n, in).
        bias: (n,), or None.

    Returns:
        (..., n), float32, or float64 where an input is.
    """
    dtype = logit_dtype(x, weight)
    if x.dtype == dtype and not torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))
    y: Tensor = _WideLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def hadamard_linear(x: Tensor, W: Tensor, A: Tensor, B: Tensor, logit: Tensor | None) -> Tensor:
    """Return σ(logit) · (W ⊙ (BA)) x; without a logit the gate is 1.

    The products run in the type that a linear layer would use: autocast's, else x's.

    Source: GateRA, arXiv:2511.17582; the bound of its Theorem 1 holds for the gradients of A, B.
    """
    y: Tensor = _HadamardLinear.apply(x, W, A, B, logit)  # type: ignore[no-untyped-call]
    return y


def gated_hadamard_layer(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, logit: Tensor | None
) -> Tensor:
    """Return W x + bias + σ(logit) · (W ⊙ (BA)) x: base layer and update in one pass.

    The same as a linear layer plus `hadamard_linear`, with the sums done inside the products.
    """
    y: Tensor = _GatedHadamardLayer.apply(x, W, A, B, logit, bias)  # type: ignore[no-untyped-call]
    return y


def gated_linear(x: Tensor, D: Tensor, logit: Tensor | None) -> Tensor:
    """Return σ(logit) · D x for a product D, (out, in), that is at hand; without a logit, D x."""
    with without_autocast(x):
        y = F.linear(x.to(D.dtype), D)
        return y if logit is None else y * torch.sigmoid(logit).to(D.dtype)


def folded_hadamard_linear(
    x: Tensor, W: Tensor, bias: Tensor | None, A: Tensor, B: Tensor
) -> Tensor:
    """Return (W ⊙ (1 + BA)) x + bias: base layer and ungated update in one product."""
    y: Tensor = _FoldedHadamardLinear.apply(x, W, A, B, bias)  # type: ignore[no-untyped-call]
    return y


def hadamard_product(W: Tensor, A: Tensor, B: Tensor, dtype: torch.dtype) -> Tensor:
    """Return W ⊙ (BA), (out, in), multiplied in the widest type and then cast to `dtype`."""
    return (torch.mm(B, A) * W).to(dtype)


def folded_weight(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Return W ⊙ (1 + BA), (out, in)."""
    return W + torch.mm(B, A) * W


def logit_dtype(x: Tensor, parameter: Tensor) -> torch.dtype:
    """The type that a gate's logit is computed in: float32, or float64 where an input is."""
    wide = torch.promote_types(x.dtype, parameter.dtype)
    return torch.promote_types(wide, torch.float32)


def linear_dtype(x: Tensor) -> torch.dtype:
    """The type that F.linear computes in for the input `x`."""
    device_type = x.device.type
    if torch.is_autocast_enabled(device_type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which types are what the tensors say; free where autocast is off."""
    if not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])  # (tokens, features)


class _TokenLogit(torch.autograd.Function):
    """w·x + b in a wider type than x has, keeping x as it came."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        dtype = logit_dtype(x, weight)
        with without_autocast(x):
            return F.linear(x.to(dtype), weight.to(dtype), bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (d_logit,) = grads
        x, weight, bias = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        with without_autocast(x):
            if ctx.needs_input_grad[0]:
                d_x = (d_logit * weight).to(x.dtype)
            if ctx.needs_input_grad[1]:
                d_weight = torch.mm(_rows(d_logit).t(), _rows(x).to(d_logit.dtype))
                d_weight = d_weight.to(weight.dtype)
            if ctx.needs_input_grad[2]:
                d_bias = d_logit.sum().reshape(1).to(bias.dtype)
        return d_x, d_weight, d_bias


class _WideLinear(torch.autograd.Function):
    """A linear layer in a wider type than x has, keeping x as it came."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        dtype = logit_dtype(x, weight)
        with without_autocast(x):
            return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (d_y,) = grads
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        with without_autocast(x):
            if ctx.needs_input_grad[0]:
                d_x = torch.matmul(d_y, weight.to(d_y.dtype)).to(x.dtype)
            if ctx.needs_input_grad[1]:
                d_weight = torch.mm(_rows(d_y).t(), _rows(x).to(d_y.dtype)).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                d_bias = _rows(d_y).sum(0).to(ctx.bias_dtype)
        return d_x, d_weight, d_bias


class _HadamardLinear(torch.autograd.Function):
    """y = g · D x with D = W ⊙ (BA), g = σ(logit).

    Backward, with u = Dᵀ dy:  dx = g u,  dg = ⟨x, u⟩,  P = (g dy)ᵀ x,  d(BA) = P ⊙ W.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, A: Tensor, B: Tensor, logit: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, W, A, B, logit)
        ctx.dtype = linear_dtype(x)
        with without_autocast(x):
            return gated_linear(x, hadamard_product(W, A, B, ctx.dtype), logit)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, W, A, B, logit = ctx.saved_tensors
        d_x = d_logit = d_W = d_A = d_B = None
        with without_autocast(x):
            d_y, rows = _rows(grads[0]), _rows(x).to(ctx.dtype)
            gate = None if logit is None else _column(logit, ctx.dtype)  # (tokens, 1)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[4]:
                u = torch.mm(d_y, hadamard_product(W, A, B, ctx.dtype))  # (tokens, in)
                if ctx.needs_input_grad[4]:
                    d_logit = _gate_gradient(rows, u, logit)
                d_x = (u if gate is None else u * gate).view(x.shape).to(x.dtype)
            if any(ctx.needs_input_grad[1:4]):
                P = _gated_outer(d_y, rows, gate)  # (out, in)
                d_W, d_A, d_B = _weight_gradients(ctx.needs_input_grad[1:4], P, W, A, B, 0.0)
        return d_x, d_W, d_A, d_B, d_logit


class _GatedHadamardLayer(torch.autograd.Function):
    """y = W x + bias + g · D x with D = W ⊙ (BA), g = σ(logit).

    Backward, with u = Dᵀ dy:  dx = Wᵀ dy + g u,  dg = ⟨x, u⟩,  P = (g dy)ᵀ x,  d(BA) = P ⊙ W.
    The gate multiplies whichever of input and output is narrower.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        A: Tensor,
        B: Tensor,
        logit: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, W, A, B, logit)
        ctx.dtype = dtype = linear_dtype(x)
        with without_autocast(x):
            rows = _rows(x).to(dtype)  # (tokens, in)
            y = F.linear(rows, W.to(dtype), None if bias is None else bias.to(dtype))
            D_t = hadamard_product(W, A, B, dtype).t()  # (in, out)
            if logit is None:
                y.addmm_(rows, D_t)
            elif W.shape[1] <= W.shape[0]:
                y.addmm_(rows * _column(logit, dtype), D_t)
            else:
                y.addcmul_(torch.mm(rows, D_t), _column(logit, dtype))
            return y.view(*x.shape[:-1], W.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, W, A, B, logit = ctx.saved_tensors
        d_x = d_logit = d_W = d_A = d_B = d_bias = None
        with without_autocast(x):
            d_y, rows = _rows(grads[0]), _rows(x).to(ctx.dtype)
            gate = None if logit is None else _column(logit, ctx.dtype)  # (tokens, 1)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[4]:
                D = hadamard_product(W, A, B, ctx.dtype)
                if gate is None:
                    d_x = torch.mm(d_y, W.to(ctx.dtype) + D)
                else:
                    u = torch.mm(d_y, D)  # (tokens, in)
                    if ctx.needs_input_grad[4]:
                        d_logit = _gate_gradient(rows, u, logit)
                    d_x = _gated_sum(u, gate, d_y, W.to(ctx.dtype))
                d_x = d_x.view(x.shape).to(x.dtype)
            if any(ctx.needs_input_grad[1:4]):
                P = _gated_outer(d_y, rows, gate)  # (out, in)
                d_W, d_A, d_B = _weight_gradients(ctx.needs_input_grad[1:4], P, W, A, B, 0.0)
                if d_W is not None:
                    d_W = d_W + torch.mm(d_y.t(), rows)
            if ctx.needs_input_grad[5]:
                d_bias = d_y.sum(0)
        return d_x, d_W, d_A, d_B, d_logit, d_bias


class _FoldedHadamardLinear(torch.autograd.Function):
    """y = (W ⊙ (1 + BA)) x + bias."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, A: Tensor, B: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, W, A, B)
        return F.linear(x, folded_weight(W, A, B), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (d_y,) = grads
        x, W, A, B = ctx.saved_tensors
        d_x = d_W = d_bias = d_A = d_B = None
        with without_autocast(x):
            if ctx.needs_input_grad[0]:
                d_x = torch.matmul(d_y, folded_weight(W, A, B))
            if any(ctx.needs_input_grad[1:4]):
                P = torch.mm(_rows(d_y).t(), _rows(x))  # (out, in)
                d_W, d_A, d_B = _weight_gradients(ctx.needs_input_grad[1:4], P, W, A, B, 1.0)
            if ctx.needs_input_grad[4]:
                d_bias = _rows(d_y).sum(0)
        return d_x, d_W, d_A, d_B, d_bias


def _column(logit: Tensor, dtype: torch.dtype) -> Tensor:
    """The gate as (tokens, 1) in `dtype`."""
    return torch.sigmoid(logit).reshape(-1, 1).to(dtype)


def _gate_gradient(rows: Tensor, u: Tensor, logit: Tensor) -> Tensor:
    """Gradient of the logit, in its shape: g (1 - g) ⟨x, u⟩ for each token."""
    gate = torch.sigmoid(logit)
    d_gate = (rows * u).sum(-1, dtype=logit.dtype)
    return d_gate.view(logit.shape) * gate * (1 - gate)


def _gated_sum(u: Tensor, gate: Tensor, d_y: Tensor, W: Tensor) -> Tensor:
    """g u + Wᵀ dy, (tokens, in), in u's own memory unless a second derivative needs u."""
    if torch.is_grad_enabled():
        return torch.addmm(u * gate, d_y, W)
    return u.mul_(gate).addmm_(d_y, W)


def _gated_outer(d_y: Tensor, rows: Tensor, gate: Tensor | None) -> Tensor:
    """Σ_tokens g dy xᵀ, (out, in), the gate on the narrower side."""
    if gate is None:
        return torch.mm(d_y.t(), rows)
    if rows.shape[1] <= d_y.shape[1]:
        return torch.mm(d_y.t(), rows * gate)
    return torch.mm((d_y * gate).t(), rows)


def _weight_gradients(
    needed: tuple[bool, bool, bool], P: Tensor, W: Tensor, A: Tensor, B: Tensor, identity: float
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of W, A and B from P, the gradient of W ⊙ (identity + BA), (out, in).

    W is frozen in ordinary use, so its gradient is the rare case.
    """
    d_W = d_A = d_B = None
    if needed[0]:
        d_W = (P * (identity + torch.mm(B, A))).to(W.dtype)
    if needed[1] or needed[2]:
        d_BA = (P * W).to(torch.promote_types(P.dtype, A.dtype))  # (out, in)
    if needed[1]:
        d_A = torch.mm(B.t().to(d_BA.dtype), d_BA).to(A.dtype)
    if needed[2]:
        d_B = torch.mm(d_BA, A.t().to(d_BA.dtype)).to(B.dtype)
    return d_W, d_A, d_B
