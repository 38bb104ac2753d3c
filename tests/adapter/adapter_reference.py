"""The method, written from its equations with loops over tokens and numpy's float64.

Nothing here is shared with the package: vectors of one token at a time, in the order in which the
papers state them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = Mapping[str, Array]


def sigmoid(z: Array | float) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(z, dtype=np.float64))))


def logit_of(gate: str, xs: Array, t: int, real: list[bool], p: Tensors) -> Array:
    """The logit of token t of one sequence xs (tokens, in): (1,), or (out,) for channels."""
    x = xs[t]
    if gate == "static":
        return p["bias"]
    if gate == "token":
        return p["weight"] @ x + p["bias"]
    if gate == "mlp":
        z = p["weight_hidden"] @ x + p["bias_hidden"]
        return p["weight"] @ (z * sigmoid(z)) + p["bias"]
    if gate == "channel":
        return p["weight"] @ (p["weight_hidden"] @ x) + p["bias"]
    assert gate == "attention"
    hidden = p["weight_query"].shape[0]
    seen = [s for s in range(t + 1) if real[s] or s == t]
    scores = [(p["weight_query"] @ x) @ (p["weight_key"] @ xs[s]) / math.sqrt(hidden) for s in seen]
    weights = np.exp(scores) / np.exp(scores).sum()
    attended = sum(w * (p["weight"] @ xs[s]) for w, s in zip(weights, seen, strict=True))
    return np.asarray(attended + p["bias"])


def gate_of(
    gate: str,
    xs: Array,
    t: int,
    real: list[bool],
    p: Tensors,
    temperature: float = 1.0,
    threshold: float = 0.0,
) -> Array:
    """g of token t of one sequence xs (tokens, in): (1,), or (out,) for channels."""
    if gate == "none":
        return np.ones(1)
    g = sigmoid(logit_of(gate, xs, t, real, p) / temperature)
    return np.where(g < threshold, 0.0, g)


def update_of(delta: str, x: Array, W: Array, p: Tensors, scaling: float, mora: str) -> Array:
    """Δ(x) of one token, (out,), for a gate of 1."""
    out, inner = W.shape
    y = np.zeros(out)
    if delta == "mora":
        return scaling * mora_of(x, out, p["A"], mora)
    BA = p["B"] @ p["A"]
    for i in range(out):
        for j in range(inner):
            if delta in ("hira", "hilora"):
                y[i] += W[i, j] * BA[i, j] * x[j]
            if delta == "lora":
                y[i] += scaling * BA[i, j] * x[j]
        if delta == "hilora":
            y[i] += scaling * p["B2"][i] @ (p["A2"] @ x)
        if delta == "dora":
            V = W[i] + scaling * BA[i]
            y[i] = p["magnitude"][i] * (V @ x) / math.sqrt((V**2).sum()) - W[i] @ x
    return y


def mora_of(x: Array, out: int, M: Array, kind: str) -> Array:
    """MoRA's sharing and rotation variants, arXiv:2405.12130, element by element."""
    n = M.shape[0]
    count = math.ceil(len(x) / n)
    filled = [x[j % len(x)] for j in range(count * n)]
    if kind == "share":
        folded = np.array([sum(filled[g * n + k] for g in range(count)) for k in range(n)])
        y = M @ folded
    else:
        parts = []
        for g in range(count):
            group = filled[g * n : (g + 1) * n]
            turned = np.zeros(n)
            for k in range(n // 2):
                angle = g * 10000.0 ** (-2 * k / n)
                a, b = group[k], group[k + n // 2]
                turned[k] = a * math.cos(angle) - b * math.sin(angle)
                turned[k + n // 2] = b * math.cos(angle) + a * math.sin(angle)
            parts.append(M @ turned)
        y = np.concatenate(parts)
    return np.array([y[i % len(y)] for i in range(out)])


def layer_output(
    gate: str,
    delta: str,
    xs: Array,
    gate_inputs: Array,
    real: list[list[bool]],
    W: Array,
    bias: Array,
    update: Tensors,
    gate_parameters: Tensors,
    *,
    scaling: float,
    temperature: float = 1.0,
    threshold: float = 0.0,
    mora: str = "rotate",
) -> Array:
    """y = W x + bias + g(x) Δ(x) for a batch: xs (batch, tokens, in) -> (batch, tokens, out)."""
    y = np.zeros((*xs.shape[:2], W.shape[0]))
    for b, t in np.ndindex(*xs.shape[:2]):
        g = gate_of(gate, gate_inputs[b], t, real[b], gate_parameters, temperature, threshold)
        y[b, t] = W @ xs[b, t] + bias
        y[b, t] += g * update_of(delta, xs[b, t], W, update, scaling, mora)
    return y


def dora_gradients(
    gate: str,
    xs: Array,
    gate_inputs: Array,
    real: list[list[bool]],
    W: Array,
    update: Tensors,
    gate_parameters: Tensors,
    d_ys: Array,
    *,
    scaling: float,
) -> dict[str, Array]:
    """Gradients of DoRA's A and B from those of y, ‖V‖ a constant, as arXiv:2402.09353 has it."""
    A, B = update["A"], update["B"]
    gradients = {"A": np.zeros(A.shape), "B": np.zeros(B.shape)}
    norms = [math.sqrt((V**2).sum()) for V in W + scaling * B @ A]
    for b, t in np.ndindex(*xs.shape[:2]):
        g = gate_of(gate, gate_inputs[b], t, real[b], gate_parameters)
        d_BAx = scaling * update["magnitude"] / norms * g * d_ys[b, t]  # (out,)
        gradients["A"] += np.outer(B.T @ d_BAx, xs[b, t])
        gradients["B"] += np.outer(d_BAx, A @ xs[b, t])
    return gradients
