"""The gated additive update in one function: its equation, its gradients, its types."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from gatera import GateraConfig, record_gates
from gatera.adapter.kernels.low_rank import token_gated_low_rank
from gatera.adapter.updates import lora

BATCH, TOKENS, IN, OUT, RANK = 2, 3, 5, 7, 2
TEMPERATURE, SCALING = 0.7, 1.5


def tensors(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(BATCH, TOKENS, IN), (RANK, IN), (OUT, RANK), (1, IN), (1,)]
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [t.to(dtype).requires_grad_() for t in drawn]


def by_loops(x: Tensor, A: Tensor, B: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.zeros(BATCH, TOKENS, OUT, dtype=torch.float64)
    z = torch.zeros(BATCH, TOKENS, 1, dtype=torch.float64)
    for n in range(BATCH):
        for t in range(TOKENS):
            logit = sum(float(w[0, j] * x[n, t, j]) for j in range(IN)) + float(b[0])
            z[n, t, 0] = logit / TEMPERATURE
            g = 1 / (1 + math.exp(-logit / TEMPERATURE))
            for i in range(OUT):
                ba = [sum(float(B[i, k] * A[k, j]) for k in range(RANK)) for j in range(IN)]
                y[n, t, i] = g * SCALING * sum(ba[j] * float(x[n, t, j]) for j in range(IN))
    return y, z


def test_it_is_the_equation() -> None:
    with torch.no_grad():
        y, z = token_gated_low_rank(*tensors(), TEMPERATURE, SCALING, torch.float64)
        expected_y, expected_z = by_loops(*tensors())
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(z, expected_z)


def test_its_first_and_second_derivatives() -> None:
    def both(*given: Tensor) -> tuple[Tensor, Tensor]:
        return token_gated_low_rank(*given, TEMPERATURE, SCALING, torch.float64)

    assert torch.autograd.gradcheck(both, tensors())
    assert torch.autograd.gradgradcheck(both, tensors())


def test_the_entropy_alone_trains_the_gate_alone() -> None:
    given = tensors()
    _, z = token_gated_low_rank(*given, TEMPERATURE, SCALING, torch.float64)
    z.square().sum().backward()
    assert given[3].grad.abs().sum() > 0
    assert given[1].grad.abs().sum() == 0
    assert given[2].grad is None or given[2].grad.abs().sum() == 0


@pytest.mark.parametrize("adapter", [torch.bfloat16, torch.float32])
def test_low_precision_is_as_close_as_the_plain_form(adapter: torch.dtype) -> None:
    """Errors against float64 of the values as rounded, beside those of PyTorch's own operations."""
    torch.manual_seed(1)
    x = torch.randn(64, 48).bfloat16()
    A, B = torch.randn(4, 48) / 7, torch.randn(40, 4)
    w, b = torch.randn(1, 48) / 7, torch.randn(1)
    rounded = [t.to(adapter) for t in (A, B, w, b)]

    def plain(x: Tensor, A: Tensor, B: Tensor, w: Tensor, b: Tensor) -> Tensor:
        logit = x.to(torch.promote_types(w.dtype, torch.float32)) @ w.t().float().to(
            torch.promote_types(w.dtype, torch.float32)
        ) + b.to(torch.promote_types(b.dtype, torch.float32))
        narrow = x.to(A.dtype) @ A.t()
        return (narrow * (torch.sigmoid(logit / TEMPERATURE) * SCALING).to(A.dtype)) @ B.t()

    exact_inputs = [t.double().requires_grad_() for t in (x, *rounded)]
    y64 = plain(*exact_inputs)
    exact = [y64.detach(), *torch.autograd.grad(y64.square().sum(), exact_inputs)]
    errors = []
    for ours in (True, False):
        given = [t.clone().requires_grad_() for t in (x, *rounded)]
        if ours:
            y, _ = token_gated_low_rank(*given, TEMPERATURE, SCALING, adapter)
        else:
            y = plain(*given)
        found = [y.detach(), *torch.autograd.grad(y.square().sum(), given)]
        errors.append(
            [float((f.double() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]
        )
    for mine, other in zip(*errors, strict=True):
        assert mine <= 1.2 * other + 2**-8


def adapted(**fields: object) -> PeftModel:
    torch.manual_seed(4)
    settings = {"r": 2, "delta": "lora", "alpha": 3, "init_weights": False, **fields}
    config = GateraConfig(gate="token", gate_init_std=0.6, target_modules=["0"], **settings)
    return get_peft_model(nn.Sequential(nn.Linear(IN, OUT)), config)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_hooked_gate_takes_the_plain_road_to_the_same_place(autocast: bool) -> None:
    one, other = adapted(), adapted()
    other.base_model.model[0].gatera_gate["default"].register_forward_hook(lambda *_: None)
    results = []
    for model in (one, other):
        x = tensors(torch.float32)[0].detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), record_gates(model) as gates:
            y = model(x)
        (y.float().square().sum() + gates.entropy()).backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        results.append([y, x.grad, *grads])
    loose = {"rtol": 0.03, "atol": 0.03} if autocast else {}
    for mine, theirs in zip(*results, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, **loose)


@pytest.mark.parametrize(
    ("given", "autocast", "expected"),
    [
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float32, True, torch.bfloat16),
        (torch.bfloat16, False, torch.float32),
        (torch.float32, False, torch.float32),
    ],
)
def test_the_products_run_in_the_type_that_lora_would_use(
    given: torch.dtype,
    autocast: bool,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Autocast's, else that of the adapter, here float32."""
    updates: list[Tensor] = []

    def noted(*args: Any) -> tuple[Tensor, Tensor]:
        y, logit = token_gated_low_rank(*args)
        updates.append(y)
        return y, logit

    monkeypatch.setattr(lora, "token_gated_low_rank", noted)
    model = adapted()
    layer = model.base_model.model[0]
    layer.base_layer.to(given)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(tensors(given)[0])
    assert [y.dtype for y in updates] == [expected]


def test_it_keeps_no_more_for_the_backward_pass_than_lora() -> None:
    model = adapted()
    kept: dict[int, int] = {}
    parameters = {p.data_ptr() for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(11, IN)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model(x).sum()
    # x, A x with the logit beside it: LoRA keeps x and A x, r wide, in and out of its scaling.
    assert sum(kept.values()) <= 4 * 11 * (IN + 2 * RANK + 2)


def test_copies_compute_alike() -> None:
    model = adapted()
    x = torch.randn(3, IN)
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x), rtol=0, atol=0)
