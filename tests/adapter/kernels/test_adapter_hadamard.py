"""The Hadamard layer's arithmetic against float64 loops written from the equations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gatera.adapter.kernels import blocks
from gatera.adapter.kernels.functional import linear_dtype, wide_linear
from gatera.adapter.kernels.hadamard import (
    folded_hadamard_linear,
    gated_hadamard_layer,
    hadamard_linear,
    token_gated_hadamard_layer,
)

IN, OUT, R = 7, 5, 3


def random_inputs(*tokens: int, requires_grad: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(tokens))
    shapes = {
        "x": (*tokens, IN),
        "W": (OUT, IN),
        "A": (R, IN),
        "B": (OUT, R),
        "logit": (*tokens, 1),
        "bias": (OUT,),
        "w": (1, IN),
        "b": (1,),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(
            requires_grad
        )
        for name, shape in shapes.items()
    }


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def hadamard_reference(v: dict[str, Tensor], identity: float, gated: bool) -> Tensor:
    """g · (W ⊙ (identity + BA)) x, one number at a time."""
    x = v["x"].reshape(-1, IN)
    logits = v["logit"].reshape(-1)
    y = torch.zeros(len(x), OUT, dtype=torch.float64)
    for t in range(len(x)):
        gate = sigmoid(float(logits[t])) if gated else 1.0
        for i in range(OUT):
            for j in range(IN):
                ba = sum(float(v["B"][i, k]) * float(v["A"][k, j]) for k in range(R))
                y[t, i] += gate * float(v["W"][i, j]) * (identity + ba) * float(x[t, j])
    return y.reshape(*v["x"].shape[:-1], OUT)


@pytest.mark.parametrize("tokens", [(), (4,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("gated", [False, True])
def test_hadamard_linear_matches_the_equation(tokens: tuple[int, ...], gated: bool) -> None:
    v = random_inputs(*tokens)
    logit = v["logit"] if gated else None
    expected = hadamard_reference(v, identity=0.0, gated=gated)
    actual = hadamard_linear(v["x"], v["W"], v["A"], v["B"], logit)
    torch.testing.assert_close(actual, expected)
    single = [v[name].float() for name in ("x", "W", "A", "B")]
    actual = hadamard_linear(*single, None if logit is None else logit.float())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [(), (4,), (2, 3)])
def test_folded_hadamard_linear_matches_the_equation(tokens: tuple[int, ...]) -> None:
    v = random_inputs(*tokens)
    expected = hadamard_reference(v, identity=1.0, gated=False) + v["bias"]
    actual = folded_hadamard_linear(v["x"], v["W"], v["bias"], v["A"], v["B"])
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("tokens", [(), (4,), (2, 3)])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("narrow", ["input", "output"])
def test_gated_hadamard_layer_is_the_sum_of_its_parts(
    tokens: tuple[int, ...], gated: bool, narrow: str
) -> None:
    """In both orders of the gate's product: it goes to the narrower of input and output."""
    v = random_inputs(*tokens)
    if narrow == "input":  # 5 inputs and 7 outputs: the reference's W, transposed
        v["x"], v["bias"] = v["x"][..., :OUT], torch.arange(IN, dtype=torch.float64)
        v["W"], v["A"], v["B"] = v["W"].t(), v["B"].t(), v["A"].t()
    logit = v["logit"] if gated else None
    base = v["x"] @ v["W"].t() + v["bias"]
    expected = base + hadamard_linear(v["x"], v["W"], v["A"], v["B"], logit)
    parts = [v[name].requires_grad_() for name in ("x", "W", "bias", "A", "B")]
    torch.testing.assert_close(gated_hadamard_layer(*parts, logit), expected)
    if logit is not None:
        logit.requires_grad_()
    assert torch.autograd.gradcheck(gated_hadamard_layer, (*parts, logit))
    assert torch.autograd.gradgradcheck(gated_hadamard_layer, (*parts, logit))


@pytest.mark.parametrize("tokens", [(), (4,), (2, 3)])
def test_gradients_of_every_input_are_right(tokens: tuple[int, ...]) -> None:
    v = random_inputs(*tokens, requires_grad=True)
    weights = (v["x"], v["W"], v["A"], v["B"])
    assert torch.autograd.gradcheck(hadamard_linear, (*weights, v["logit"]))
    assert torch.autograd.gradcheck(hadamard_linear, (*weights, None))
    folded = (v["x"], v["W"], v["bias"], v["A"], v["B"])
    assert torch.autograd.gradcheck(folded_hadamard_linear, folded)
    assert torch.autograd.gradcheck(wide_linear, (v["x"], v["w"], v["b"]))


@pytest.mark.parametrize("needing", ["x", "A", "B", "logit"])
def test_gradients_are_right_when_only_one_input_needs_them(needing: str) -> None:
    v = random_inputs(2, 3)
    v[needing].requires_grad_()
    x, W, A, B, logit = (v[name] for name in ("x", "W", "A", "B", "logit"))
    assert torch.autograd.gradcheck(hadamard_linear, (x, W, A, B, logit))
    assert torch.autograd.gradcheck(gated_hadamard_layer, (x, W, None, A, B, logit))


def test_second_derivatives_are_right() -> None:
    v = random_inputs(2, 3, requires_grad=True)
    inputs = tuple(v[name] for name in ("x", "W", "A", "B", "logit"))
    assert torch.autograd.gradgradcheck(hadamard_linear, inputs)


def test_hadamard_linear_follows_autocast_as_a_linear_layer_does() -> None:
    v = random_inputs(2, 3)
    inputs = [v[name].float().requires_grad_() for name in ("x", "W", "A", "B", "logit")]
    exact = hadamard_linear(*inputs)
    exact_gradients = torch.autograd.grad(exact.sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear_dtype(inputs[0]) == torch.bfloat16
        lower = hadamard_linear(*inputs)
        gradients = torch.autograd.grad(lower.float().sum(), inputs)
    assert lower.dtype == torch.bfloat16
    torch.testing.assert_close(lower.float(), exact, rtol=0.05, atol=0.05)
    for name, low, high in zip("xWABz", gradients, exact_gradients, strict=True):
        assert low.dtype == torch.float32, name
        torch.testing.assert_close(low, high, rtol=0.05, atol=0.15)


def saved_elements(function: object, *inputs: Tensor) -> int:
    """Elements kept for the backward pass, those of the inputs left out."""
    own = {tensor.data_ptr() for tensor in inputs}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function(*inputs)  # type: ignore[operator]
    assert output.requires_grad
    return sum(kept.values())


def test_nothing_of_the_size_of_the_weight_is_kept_for_backward() -> None:
    v = random_inputs(2, 3, requires_grad=True)
    gated = [v[name] for name in ("x", "W", "A", "B", "logit")]
    assert saved_elements(hadamard_linear, *gated) == 0
    folded = [v[name] for name in ("x", "W", "bias", "A", "B")]
    assert saved_elements(folded_hadamard_linear, *folded) == 0
    assert saved_elements(gated_hadamard_layer, *folded, v["logit"]) == 0
    within = [*folded, v["w"], v["b"]]
    tokens = 2 * 3  # the logit's size, which is an output anyway
    assert saved_elements(lambda *t: token_gated_hadamard_layer(*t, 1.0)[0], *within) == tokens


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    logit=st.floats(-12, 12),
    scale=st.floats(0.01, 30),
    out=st.integers(1, 6),
    into=st.integers(1, 6),
    r=st.integers(1, 4),
)
def test_theorem_1_bounds_the_gradient_of_the_update(
    seed: int, logit: float, scale: float, out: int, into: int, r: int
) -> None:
    """‖∂L/∂(BA)‖_F ≤ g ‖W0‖ ‖∂L/∂y‖ ‖x‖ for one token, arXiv:2511.17582, Theorem 1.

    With B the identity, A is the product itself, so its gradient is the theorem's.
    """
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(into, generator=generator, dtype=torch.float64)
    W = torch.randn(out, into, generator=generator, dtype=torch.float64)
    BA = torch.randn(out, r, generator=generator, dtype=torch.float64) @ torch.randn(
        r, into, generator=generator, dtype=torch.float64
    )
    d_y = torch.randn(out, generator=generator, dtype=torch.float64)
    product = BA.requires_grad_()
    z = torch.tensor([logit], dtype=torch.float64)
    y = hadamard_linear(x, W, product, torch.eye(out, dtype=torch.float64), z)
    (gradient,) = torch.autograd.grad(y, product, d_y)
    bound = sigmoid(logit) * W.norm() * d_y.norm() * x.norm()
    assert gradient.norm() <= bound * (1 + 1e-9)


def test_closed_gates_leave_no_gradient() -> None:
    """Corollary 2: as g goes to 0 the gradient of the update vanishes."""
    v = random_inputs(2, 3)
    A = v["A"].requires_grad_()
    hadamard_linear(
        v["x"], v["W"], A, v["B"], torch.full((2, 3, 1), -60.0).double()
    ).sum().backward()
    assert A.grad is not None
    assert A.grad.abs().max() < 1e-20


def token_gated_inputs(v: dict[str, Tensor]) -> list[Tensor]:
    return [v[name] for name in ("x", "W", "bias", "A", "B", "w", "b")]


@pytest.mark.parametrize("tokens", [(), (4,), (2, 3)])
def test_token_gated_layer_matches_the_equation(tokens: tuple[int, ...]) -> None:
    v = random_inputs(*tokens)
    v["logit"] = (v["x"] @ v["w"].t() + v["b"]) / 0.7
    expected = v["x"] @ v["W"].t() + v["bias"] + hadamard_reference(v, identity=0.0, gated=True)
    y, logit = token_gated_hadamard_layer(*token_gated_inputs(v), 0.7)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(logit, v["logit"])


@pytest.mark.parametrize("outputs", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize("narrow", ["input", "output"])
def test_gradients_of_the_token_gated_layer_are_right(
    outputs: tuple[int, ...], narrow: str
) -> None:
    """Of y and the logit, of either alone (the entropy needs the logit alone), and second ones."""
    v = random_inputs(2, 3)
    if narrow == "input":
        v["x"], v["w"], v["bias"] = v["x"][..., :OUT], v["w"][:, :OUT], v["x"][0, 0]
        v["W"], v["A"], v["B"] = v["W"].t(), v["B"].t(), v["A"].t()
    inputs = [t.clone().requires_grad_() for t in token_gated_inputs(v)]

    def chosen(*given: Tensor) -> tuple[Tensor, ...]:
        both = token_gated_hadamard_layer(*given, 0.7)
        return tuple(both[n] for n in outputs)

    assert torch.autograd.gradcheck(chosen, inputs)
    assert torch.autograd.gradgradcheck(chosen, inputs)


@pytest.mark.parametrize("needing", ["x", "A", "B", "w", "b"])
def test_one_input_of_the_token_gated_layer_may_need_its_gradient_alone(needing: str) -> None:
    v = random_inputs(2, 3)
    v[needing].requires_grad_()

    def chosen(*given: Tensor) -> tuple[Tensor, ...]:
        y, logit = token_gated_hadamard_layer(*given, 1.0)
        return (y, logit) if logit.requires_grad else (y,)

    assert torch.autograd.gradcheck(chosen, token_gated_inputs(v))


def test_the_logit_alone_gives_the_factors_no_gradient() -> None:
    v = random_inputs(2, 3, requires_grad=True)
    _, logit = token_gated_hadamard_layer(*token_gated_inputs(v), 1.0)
    logit.sum().backward()
    assert v["A"].grad is None
    assert v["B"].grad is None
    assert v["x"].grad is not None
    torch.testing.assert_close(v["x"].grad, v["w"].detach().expand(2, 3, IN))


@pytest.mark.parametrize("narrow", ["input", "output"])
@pytest.mark.parametrize("elements", [1, 3, 11, 20])
def test_any_cut_into_blocks_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, elements: int, narrow: str
) -> None:
    v = random_inputs(2, 3)
    if narrow == "input":
        v["x"], v["w"], v["bias"] = v["x"][..., :OUT], v["w"][:, :OUT], v["x"][0, 0]
        v["W"], v["A"], v["B"] = v["W"].t(), v["B"].t(), v["A"].t()

    def results() -> list[Tensor]:
        inputs = [t.clone().requires_grad_() for t in token_gated_inputs(v)]
        x, W, bias, A, B, w, b = inputs
        logit = wide_linear(x, w, b)
        outputs = [
            *token_gated_hadamard_layer(*inputs, 0.7),
            gated_hadamard_layer(x, W, bias, A, B, logit),
            gated_hadamard_layer(x, W, bias, A, B, None),
            hadamard_linear(x, W, A, B, logit),
            folded_hadamard_linear(x, W, bias, A, B),
        ]
        loss = sum(((n + 1) * output.square().sum() for n, output in enumerate(outputs)))
        return [*outputs, *torch.autograd.grad(loss, inputs)]

    whole = results()
    monkeypatch.setattr(blocks, "_LEAST_COLUMNS", 1)
    monkeypatch.setattr(blocks, "_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(blocks, "_blocks", counted := CountedBlocks(blocks._blocks, elements))
    for cut, expected in zip(results(), whole, strict=True):
        torch.testing.assert_close(cut, expected)
    assert counted.most > 1


class CountedBlocks:
    """`_blocks` with blocks of so many elements, and how many blocks came of it."""

    def __init__(self, cut: Callable[..., list[blocks.Part]], elements: int) -> None:
        self.cut, self.elements, self.most = cut, elements, 0

    def __call__(
        self, length: int, other: int, like: Tensor, *_: int, **__: int
    ) -> list[blocks.Part]:
        found = self.cut(length, other, like, self.elements)
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize(("length", "other"), [(1, 1), (64, 3), (65, 3), (1000, 7), (200, 5000)])
def test_blocks_cover_a_side_once(length: int, other: int) -> None:
    parts = blocks._blocks(length, other, torch.empty(0), 700)
    covered = [i for part in parts for i in range(length)[slice(None) if part is None else part]]
    assert covered == list(range(length))
    assert (len(parts) == 1) == (parts == [None])


def gated_layer_by_parts(
    x: Tensor, W: Tensor, A: Tensor, B: Tensor, w: Tensor, b: Tensor
) -> Tensor:
    """The equation as one would write it, every step in the tensors' own type."""
    gate = torch.sigmoid(x @ w.t() + b)
    return x @ W.t() + gate * (x @ (W * (B @ A)).t())


def test_bfloat16_is_as_near_to_the_truth_as_the_plain_equation() -> None:
    """Output and gradients, each against float64, on sizes that are cut into several blocks."""
    generator = torch.Generator().manual_seed(0)
    tokens, out, into, r = 48, 1300, 1700, 8
    shapes = [(tokens, into), (out, into), (r, into), (out, r), (1, into), (1,)]
    scales = [1.0, into**-0.5, 0.5, 0.5, into**-0.5, 0.1]
    drawn = [
        (scale * torch.randn(shape, generator=generator)).bfloat16()
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    d_y = torch.randn(tokens, out, generator=generator).bfloat16()
    assert len(blocks._blocks(out, into, drawn[1])) > 1

    def results(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        inputs = [t.to(dtype).requires_grad_() for t in drawn]
        y = function(*inputs)
        return [y, *torch.autograd.grad(y, inputs, d_y.to(dtype))]

    def lean(x: Tensor, W: Tensor, A: Tensor, B: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return token_gated_hadamard_layer(x, W, None, A, B, w, b, 1.0)[0]

    truth = results(gated_layer_by_parts, torch.float64)
    plain = results(gated_layer_by_parts, torch.bfloat16)
    actual = results(lean, torch.bfloat16)
    for name, exact, by_parts, ours in zip("yxWABwb", truth, plain, actual, strict=True):
        error = (ours.double() - exact).norm() / exact.norm()
        least = 2.0**-9 if name != "b" else 2.0**-6  # a sum that nearly cancels
        assert error <= max(1.1 * (by_parts.double() - exact).norm() / exact.norm(), least), name
