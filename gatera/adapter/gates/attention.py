"""A gate that reads the tokens before."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gatera.adapter.gates.base import Gate, GateShape
from gatera.adapter.gates.passes import Preceding
from gatera.adapter.kernels.functional import wide_linear, without_autocast


class AttentionGate(Gate):
    """g_t = σ(Σ_{s ≤ t} a_ts (w·x_s) + b) with a_t = softmax_s((Q x_t)·(K x_s) / sqrt(hidden)).

    Each token reads the token gate's own score w·x from itself and the real tokens before it,
    one head, no positions. With a key-value cache, what it needs of earlier tokens lies beside
    the model's own keys and values. An input (tokens, in) without a sequence axis is taken as
    sequences of one token each.

    Ours: GateRA, arXiv:2511.17582, leaves richer gates open.
    """

    looks_back = True

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        size = (shape.hidden, shape.in_features)
        self.weight_query = nn.Parameter(torch.empty(size, device=device))
        self.weight_key = nn.Parameter(torch.empty(size, device=device))
        self.weight = nn.Parameter(torch.empty(1, shape.in_features, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return the attended score, (batch, tokens, 1)."""
        if x.dim() == 2:
            return self.logit(x.unsqueeze(1), preceding).squeeze(1)
        queries = wide_linear(x, self.weight_query, None)  # (batch, new, hidden)
        keys = wide_linear(x, self.weight_key, None)
        scores = wide_linear(x, self.weight, None)  # (batch, new, 1)
        real = None
        if preceding is not None:
            keys, scores, real = preceding.extended(keys, scores)  # (batch, all, ·), (batch, all)
        with without_autocast(x):
            attended = _causal_mean(queries, keys, scores, real)
        return attended + self.bias.to(attended.dtype)


def _causal_mean(queries: Tensor, keys: Tensor, values: Tensor, real: Tensor | None) -> Tensor:
    """Mean of the values of itself and the real tokens before, by attention.

    Args:
        queries: (batch, new, hidden), of the last `new` of all tokens.
        keys: (batch, all, hidden).
        values: (batch, all, 1).
        real: Which tokens are real, (batch, all); None means all.
    """
    new, total = queries.shape[1], keys.shape[1]
    weights = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[2])  # (batch, new, all)
    visible = torch.ones(new, total, dtype=torch.bool, device=keys.device).tril(total - new)
    if real is not None:
        # A padded token sees itself, or its row would have nothing to sum over.
        itself = torch.ones_like(visible).tril(total - new).triu(total - new)
        visible = visible & (real.unsqueeze(1) | itself)
    return weights.masked_fill(~visible, -torch.inf).softmax(-1) @ values
