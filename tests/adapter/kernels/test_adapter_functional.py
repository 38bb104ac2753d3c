"""A gate's logit and its entropy against float64 arithmetic written from the equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gatera.adapter.kernels.functional import binary_entropy, wide_linear


def random_gate() -> tuple[Tensor, Tensor, Tensor]:
    """Return x (2, 3, 7), w (1, 7) and b (1,)."""
    generator = torch.Generator().manual_seed(0)
    x, w, b = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 3, 7), (1, 7), (1,))
    )
    return x, w, b


def test_a_gates_logit_is_computed_in_float32_from_bfloat16_input() -> None:
    x, w, b = random_gate()
    x = x.bfloat16().requires_grad_()
    w, b = w.float().requires_grad_(), b.float().requires_grad_()
    logit = wide_linear(x, w, b)
    assert logit.dtype == torch.float32
    expected = x.detach().double() @ w.detach().double().t() + b.detach().double()
    torch.testing.assert_close(logit.double(), expected, rtol=1e-5, atol=1e-5)

    logit.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, w.detach().bfloat16().expand_as(x))
    assert w.grad is not None
    assert b.grad is not None
    torch.testing.assert_close(w.grad, x.detach().float().sum((0, 1))[None], rtol=1e-5, atol=1e-5)
    assert float(b.grad) == 6.0


def test_a_gates_logit_stays_float32_under_autocast() -> None:
    x, w, b = (tensor.float() for tensor in random_gate())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logit = wide_linear(x, w, b)
    torch.testing.assert_close(logit, x @ w.t() + b)


def test_entropy_matches_the_equation_and_its_limits() -> None:
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    expected = []
    for z in logits.tolist():
        g = 1 / (1 + math.exp(-z))
        expected.append(-(g * math.log(g) + (1 - g) * math.log(1 - g)))
    torch.testing.assert_close(binary_entropy(logits), torch.tensor(expected, dtype=torch.float64))
    assert binary_entropy(torch.tensor(0.0)).item() == pytest.approx(math.log(2), abs=1e-7)
    for extreme in (-1e4, -100.0, 100.0, 1e4):
        z = torch.tensor(extreme, requires_grad=True)
        entropy = binary_entropy(z)
        entropy.backward()
        assert entropy.item() == pytest.approx(0.0, abs=1e-30)
        assert z.grad is not None
        assert z.grad.item() == pytest.approx(0.0, abs=1e-30)


def test_entropy_has_no_gradient_at_one_half() -> None:
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    binary_entropy(z).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)
