"""The token-gated additive update as one autograd function.

Gate and update read the same input: their gradients of it, and of A and w, are one product each.

Shapes: x (..., in), A (r, in), B (out, r), the gate's w (1, in) and b (1,).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels.blocks import as_rows, logit_dtype, logit_gradient, wide_product
from gatera.adapter.kernels.functional import differentiable_gradients, without_autocast


def token_gated_low_rank(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    weight: Tensor,
    gate_bias: Tensor,
    temperature: float,
    scaling: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return g · scaling · BA x and the logit of g = σ((w·x + b) / temperature).

    Args:
        x: Input, (..., in); kept for the backward pass as it is.
        A: (r, in).
        B: (out, r).
        weight: The gate's w, (1, in).
        gate_bias: The gate's b, (1,).
        temperature: Divisor of the gate's logit.
        scaling: Factor of the update.
        dtype: The type that the products with A and B run in.

    Returns:
        The update, (..., out), in `dtype`, and the logit, (..., 1), float32 or better.

    Source: LoRA, arXiv:2106.09685, behind the gate of GateRA, arXiv:2511.17582.
    """
    outputs: tuple[Tensor, Tensor] = _TokenGatedLowRank.apply(  # type: ignore[no-untyped-call]
        x, A, B, weight, gate_bias, temperature, scaling, dtype
    )
    return outputs


class _TokenGatedLowRank(torch.autograd.Function):
    """y = s g B A x with g = σ(z), z = (w·x + b) / temperature.

    Backward, with v = A x and e = Bᵀ dy:  dv = s g e,  dz = s ⟨e, v⟩ g (1 - g),
    dB = (dy)ᵀ (s g v),  dx = [dv dz] [A; w],  [dA; dw] = [dv dz]ᵀ x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        A: Tensor,
        B: Tensor,
        weight: Tensor,
        gate_bias: Tensor,
        temperature: float,
        scaling: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature, ctx.scaling, ctx.dtype = temperature, scaling, dtype
        with without_autocast(x):
            narrow, logit = _projected(as_rows(x), A, weight, gate_bias, dtype)
            logit = logit / temperature if temperature != 1.0 else logit
            gate = torch.sigmoid(logit)
            ctx.save_for_backward(x, A, B, weight, gate_bias, narrow, gate)
            ctx.set_materialize_grads(False)
            factor = _factor(gate, scaling, dtype)
            y = torch.mm(narrow * factor, B.to(dtype).t())
            tokens = x.shape[:-1]
            return y.view(*tokens, B.shape[0]), logit.view(*tokens, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if grads[0] is None and grads[1] is None:
            return (None,) * 8
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return (*differentiable_gradients(ctx, _equation, 5, grads), None, None, None)
        x, A, B, weight, gate_bias, narrow, gate = ctx.saved_tensors
        needs_x, needs_A, needs_B, needs_weight, needs_bias = ctx.needs_input_grad[:5]
        d_x = d_A = d_B = d_weight = d_bias = None
        with without_autocast(x):
            d_logit = None if grads[1] is None else as_rows(grads[1])  # of the gate's entropy
            factor = _factor(gate, ctx.scaling, narrow.dtype)
            if grads[0] is None:
                d_narrow = torch.zeros_like(narrow)
            else:
                d_y = as_rows(grads[0])
                if needs_B:
                    d_B = torch.mm(d_y.t(), narrow * factor).to(B.dtype)
                d_gated = torch.mm(d_y, B.to(ctx.dtype))  # (tokens, r)
                d_gate = _gate_gradient(d_gated, narrow, ctx.scaling, gate.dtype)
                through_gate = logit_gradient(d_gate, gate)
                d_logit = through_gate if d_logit is None else d_logit + through_gate
                d_narrow = d_gated * factor
            assert d_logit is not None
            if ctx.temperature != 1.0:
                d_logit = d_logit / ctx.temperature
            both = torch.cat([d_narrow, d_logit.to(ctx.dtype)], dim=1)  # (tokens, r + 1)
            if needs_x:
                stacked = torch.cat([A.to(ctx.dtype), weight.to(ctx.dtype)])
                d_x = torch.mm(both, stacked).view(x.shape).to(x.dtype)
            if needs_A or needs_weight:
                d_stacked = torch.mm(both.t(), as_rows(x).to(ctx.dtype))
                d_A, d_weight = d_stacked[:-1].to(A.dtype), d_stacked[-1:].to(weight.dtype)
            if needs_bias:
                d_bias = d_logit.sum(0).to(gate_bias.dtype)
        return d_x, d_A, d_B, d_weight, d_bias, None, None, None


def _projected(
    rows: Tensor, A: Tensor, weight: Tensor, gate_bias: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A x, (tokens, r), and w·x + b, (tokens, 1): one product where both have one type."""
    if dtype != logit_dtype(rows, weight):
        return torch.mm(rows.to(dtype), A.to(dtype).t()), wide_product(rows, weight, gate_bias)
    stacked = torch.cat([A.to(dtype), weight.to(dtype)])
    both = torch.mm(rows.to(dtype), stacked.t())
    return both[:, :-1], both[:, -1:] + gate_bias.to(dtype)


def _factor(gate: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """s g, (tokens, 1)."""
    return (gate if scaling == 1.0 else gate * scaling).to(dtype)


def _gate_gradient(d_gated: Tensor, narrow: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    d_gate = (d_gated * narrow).sum(1, keepdim=True, dtype=dtype)
    return d_gate if scaling == 1.0 else d_gate * scaling


def _equation(
    ctx: Any, x: Tensor, A: Tensor, B: Tensor, weight: Tensor, gate_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """What the function computes, for second derivatives."""
    dtype = logit_dtype(x, weight)
    logit = F.linear(x.to(dtype), weight.to(dtype), gate_bias.to(dtype)) / ctx.temperature
    narrow = F.linear(x.to(ctx.dtype), A.to(ctx.dtype))
    gated = narrow * (torch.sigmoid(logit) * ctx.scaling).to(narrow.dtype)
    return F.linear(gated, B.to(ctx.dtype)), logit
