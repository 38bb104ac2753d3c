"""The gates: what decides how much of the update a token gets.

A gate is a small module that returns the logit of g; g = σ(logit) is taken where the update is
computed, and the entropy regularizer needs the logit itself. `GATES` names them all. Logits are
computed in float32, or in float64 where an input is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gatera.adapter.functional import wide_linear, without_autocast
from gatera.adapter.passes import Preceding

GeneratorFor = Callable[[str], torch.Generator | None]


@dataclass(frozen=True)
class GateShape:
    """The sizes that a gate is built for."""

    in_features: int  # of what the gate reads: the layer's input, or the block's
    out_features: int  # of the adapted layer
    hidden: int  # width of a hidden layer, in the gates that have one


class Gate(nn.Module):
    """What all gates share; a gate of one's own derives from it and is named by path.

    A subclass makes its parameters in `__init__`, directly on itself, and returns the logit in
    `logit`: (..., 1), or (..., out) with `per_channel`, or (1,) without `input_dependent`.
    """

    input_dependent: ClassVar[bool] = True
    per_channel: ClassVar[bool] = False
    looks_back: ClassVar[bool] = False  # whether `logit` needs the tokens before

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__()
        self.shape = shape
        self.temperature = temperature

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return the logit of g for x, (..., in)."""
        raise NotImplementedError

    def forward(self, x: Tensor, preceding: Preceding | None = None) -> Tensor:
        """Return the logit divided by the temperature."""
        logit = self.logit(x, preceding)
        return logit if self.temperature == 1.0 else logit / self.temperature

    @torch.no_grad()
    def reset(self, std: float, bias: float, generator_for: GeneratorFor) -> None:
        """Draw the initial values.

        `weight`, which makes the logit, is N(0, std²); other matrices are uniform in
        ±1/sqrt(their inputs), as nn.Linear's; `bias` is `bias`, other biases are 0.
        """
        for name, parameter in self.named_parameters():
            generator = generator_for(name)
            if name == "bias":
                parameter.fill_(bias)
            elif name == "weight":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            elif parameter.dim() == 2:
                drawn = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((2 * drawn - 1) / math.sqrt(parameter.shape[1]))
            else:
                parameter.zero_()

    def extra_repr(self) -> str:
        return f"in_features={self.shape.in_features}, temperature={self.temperature}"


class TokenGate(Gate):
    """g(x) = σ((w·x + b) / temperature), one value for each token.

    Source: GateRA, arXiv:2511.17582; the temperature is ours, 1 in the paper.
    """

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.weight = nn.Parameter(torch.empty(1, shape.in_features, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return w·x + b, (..., 1)."""
        return wide_linear(x, self.weight, self.bias)


class StaticGate(Gate):
    """g = σ(b / temperature), one learned value a layer, whatever the input.

    Source: the static gate of the ablation in GateRA, arXiv:2511.17582.
    """

    input_dependent = False

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return b, (1,)."""
        return self.bias.to(torch.promote_types(self.bias.dtype, torch.float32))


class MlpGate(Gate):
    """g(x) = σ(w · SiLU(V x + c) + b), a gate with one hidden layer.

    Ours: GateRA, arXiv:2511.17582, leaves richer gates open.
    """

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.weight_hidden = nn.Parameter(
            torch.empty(shape.hidden, shape.in_features, device=device)
        )
        self.bias_hidden = nn.Parameter(torch.empty(shape.hidden, device=device))
        self.weight = nn.Parameter(torch.empty(1, shape.hidden, device=device))
        self.bias = nn.Parameter(torch.empty(1, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return the output of the hidden layer's readout, (..., 1)."""
        hidden = F.silu(wide_linear(x, self.weight_hidden, self.bias_hidden))  # (..., hidden)
        return wide_linear(hidden, self.weight, self.bias)


class ChannelGate(Gate):
    """g(x) = σ(U V x + b), one value for each token and each output channel, U V of low rank.

    Ours: GateRA, arXiv:2511.17582, leaves richer gates open.
    """

    per_channel = True

    def __init__(self, shape: GateShape, temperature: float, device: torch.device | None) -> None:
        super().__init__(shape, temperature, device)
        self.weight_hidden = nn.Parameter(
            torch.empty(shape.hidden, shape.in_features, device=device)
        )
        self.weight = nn.Parameter(torch.empty(shape.out_features, shape.hidden, device=device))
        self.bias = nn.Parameter(torch.empty(shape.out_features, device=device))

    def logit(self, x: Tensor, preceding: Preceding | None) -> Tensor:
        """Return U V x + b, (..., out)."""
        hidden = wide_linear(x, self.weight_hidden, None)  # (..., hidden)
        return wide_linear(hidden, self.weight, self.bias)


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


GATES: Mapping[str, type[Gate] | None] = {
    "token": TokenGate,
    "static": StaticGate,
    "none": None,
    "mlp": MlpGate,
    "attention": AttentionGate,
    "channel": ChannelGate,
}
