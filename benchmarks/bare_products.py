"""The matrix products of a Hadamard layer's step, and nothing else: what no order can do without.

A step costs tokens × in × out multiplications several times over. A gate that differs from token to
token needs five such products:

    W x and D x,    Wᵀ dy and Dᵀ dy,    P = Σ_tokens g dy xᵀ.

Without a gate Wᵀ dy and Dᵀ dy are one product with W + D, which leaves four; where the forward pass
takes W + D too, three. The rest of a step (building D, P ⊙ W, the factors' gradients) grows with
r × in × out or with in × out alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

COUNTS = (5, 4, 3)


def name(count: int) -> str:
    """The row's name in the tables."""
    return f"{count} products alone"


def bare_step(
    count: int, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], d_outputs: list[Tensor]
) -> Callable[[], None]:
    """Return a step of `count` products a layer, in the weights' type, into memory at hand.

    Args:
        count: One of COUNTS.
        weights: (out, in) by layer.
        inputs: (..., in) by layer.
        d_outputs: Gradients of the outputs, (..., out), in the order of `weights`.
    """
    layers = [
        _Layer(count, weight.detach(), inputs[layer].detach(), d_y.to(weight.dtype))
        for (layer, weight), d_y in zip(weights.items(), d_outputs, strict=True)
    ]

    def step() -> None:
        for layer in layers:
            layer.multiply()

    return step


class _Layer:
    """One layer's products: as many forward and towards x as `count` says, and P."""

    def __init__(self, count: int, weight: Tensor, x: Tensor, d_y: Tensor) -> None:
        self._forward, self._backward = {5: (2, 2), 4: (2, 1), 3: (1, 1)}[count]
        self._weight, self._rows = weight, x.reshape(-1, x.shape[-1])
        self._d_y = d_y.reshape(-1, d_y.shape[-1])
        self._y, self._d_x = torch.empty_like(self._d_y), torch.empty_like(self._rows)
        self._P = torch.empty_like(weight)

    def multiply(self) -> None:
        for _ in range(self._forward):
            torch.mm(self._rows, self._weight.t(), out=self._y)
        for _ in range(self._backward):
            torch.mm(self._d_y, self._weight, out=self._d_x)
        left = self._d_y.t()
        if left.dtype == torch.bfloat16 and left.device.type == "cpu":
            left = left.contiguous()  # the transposing product is slower by more than the copy
        torch.mm(left, self._rows, out=self._P)
