"""What the kernels, the gates and the updates share: types, wide products, the entropy of a gate.

Shapes throughout: x (..., in), logit (..., 1).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels.blocks import as_rows, logit_dtype, wide_product, wide_weight_gradient

Weight = Tensor | Callable[[], Tensor]
"""A base weight, (out, in), or what makes it: a packed one is unpacked for each pass, not kept."""


def binary_entropy(logit: Tensor) -> Tensor:
    """Entropy in nats of a Bernoulli variable with probability σ(logit), elementwise.

    Written with softplus, since log σ(z) is -inf already at moderate logits.

    Source: the regularizer of GateRA, arXiv:2511.17582.
    """
    gate = torch.sigmoid(logit)
    return gate * F.softplus(-logit) + (1 - gate) * F.softplus(logit)


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


class _WideLinear(torch.autograd.Function):
    """A linear layer in a wider type than x has, keeping x as it came."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        with without_autocast(x):
            return wide_product(as_rows(x), weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        with without_autocast(x):
            d_y = as_rows(grads[0])  # (tokens, n)
            if ctx.needs_input_grad[0]:
                d_x = torch.mm(d_y.to(x.dtype), weight.to(x.dtype)).view(x.shape)
            if ctx.needs_input_grad[1]:
                d_weight = wide_weight_gradient(d_y, as_rows(x), weight.dtype)
            if ctx.needs_input_grad[2]:
                d_bias = d_y.sum(0).to(ctx.bias_dtype)
        return d_x, d_weight, d_bias


def differentiable_gradients(
    ctx: Any,
    equation: Callable[..., tuple[Any, ...]],
    count: int,
    d_outputs: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of a function's first `count` inputs with a graph, for second derivatives.

    The views cut the graph at the inputs: a logit that was made from x is an input of its own.
    """
    views: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors[:count]]
    given = [n for n, d_output in enumerate(d_outputs) if d_output is not None]
    with without_autocast(ctx.saved_tensors[0]):
        outputs = equation(ctx, *views)
        needed = [n for n in range(count) if ctx.needs_input_grad[n]]
        found = torch.autograd.grad(
            [outputs[n] for n in given],
            [views[n] for n in needed],
            [d_outputs[n] for n in given],
            create_graph=True,
            allow_unused=True,
        )
    gradients = dict(zip(needed, found, strict=True))
    return tuple(gradients.get(n) for n in range(count))
