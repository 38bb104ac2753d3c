"""The update of DoRA: a direction of low rank, and a magnitude."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.kernels.functional import without_autocast
from gatera.adapter.updates.base import (
    Delta,
    GateValue,
    GeneratorFor,
    Parameters,
    Shape,
    UpdateInputs,
)


class Dora(Delta):
    """Δ(x) = (m / ‖V‖ ⊙ V - W) x with V = W + alpha/r · BA, norms over the inputs of each output.

    The gate acts on the whole difference from the frozen layer, y = W x + g · (W_dora x - W x):
    a closed gate gives the base layer back, and an open one DoRA. A gate on BA inside V would
    leave the magnitude ungated, and its norm would be another one for each token. As in DoRA
    (its section 4.3) the norm is a constant to the gradient.

    Source: DoRA, arXiv:2402.09353.
    """

    needs_weight = True

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of A, B and the magnitude m (out,)."""
        return {**super().shapes(), "magnitude": (self.out_features,)}

    def reset(
        self, p: Parameters, W: Tensor | None, identity: bool, generator_for: GeneratorFor
    ) -> None:
        """Draw A and B, and set m to the norms of V."""
        assert W is not None
        low_rank = {name: p[name] for name in ("A", "B")}
        super().reset(low_rank, W, identity, generator_for)
        # Parameters are made where generators draw, and W may lie on an accelerator already.
        beside_W = {name: factor.to(W.device) for name, factor in low_rank.items()}
        p["magnitude"].copy_(self._norm(W, beside_W))

    def update(self, inputs: UpdateInputs, p: Parameters, gate: GateValue) -> Tensor:
        """Return g · ((m/‖V‖ - 1) ⊙ W x + m/‖V‖ ⊙ alpha/r · BA x)."""
        W = inputs.weight()
        if inputs.cached is None:
            norm = self._norm(W, p)
        else:
            norm = inputs.cached("norm", lambda: self._norm(W, p))
        low_rank = F.linear(F.linear(inputs.cast_x(), p["A"]), p["B"])
        scale = p["magnitude"] / norm  # (out,)
        return gate.applied((scale - 1) * inputs.base() + scale * low_rank * self.scaling)

    def weight(self, W: Tensor | None, p: Parameters) -> Tensor:
        """Return m/‖V‖ ⊙ V - W."""
        assert W is not None
        V = W + self.scaling * torch.mm(p["B"], p["A"])
        return (p["magnitude"] / self._norm(W, p)).unsqueeze(1) * V - W

    @torch.no_grad()
    def _norm(self, W: Tensor, p: Parameters) -> Tensor:
        """‖V‖ of each output, (out,), rounded to W's type as the magnitude once was.

        Of an output without weights it is the smallest number above 0 in place of 0, which nothing
        can be divided by: such an output begins at m / ‖V‖ = 1, as all others do.
        """
        with without_autocast(W):
            V = W + self.scaling * torch.mm(p["B"], p["A"])
            norm: Tensor = torch.linalg.vector_norm(V, dim=1)
            return norm.to(W.dtype).clamp(min=torch.finfo(W.dtype).tiny)
