"""What many prompts begin with alike, as their template's preamble: read once for all of them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch

# From so many tokens on it is worth keys and values that every batch copies.
LEAST_TOKENS = 16


class Beginning:
    """The keys and values of tokens that every sequence begins with."""

    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        """Read `tokens`; the model is in evaluation mode."""
        self.tokens = tuple(tokens)
        ids = torch.tensor([self.tokens], device=model.device)
        with torch.no_grad():
            self._cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def cache(self, rows: int) -> Any:
        """Return a cache of `rows` sequences that have begun, for one pass or generation."""
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(rows)
        return cache


def beginning_of(model: Any, sequences: Collection[Sequence[int]]) -> Beginning | None:
    """Return what all sequences begin with; None where that is short, or there is only one.

    Each keeps a token of its own. What a token's keys and values are must depend on the tokens
    before it alone: no gate of the model may keep a state beside them.

    Args:
        model: A causal language model in evaluation mode.
        sequences: Token ids.
    """
    if len(sequences) < 2:
        return None
    ordered = [tuple(sequence) for sequence in sequences]
    first, last = min(ordered), max(ordered)  # all others lie between: they begin so too
    shortest = min(len(sequence) for sequence in ordered) - 1
    pairs = zip(first[:shortest], last[:shortest], strict=False)
    alike = next((n for n, (a, b) in enumerate(pairs) if a != b), shortest)
    return Beginning(model, first[:alike]) if alike >= LEAST_TOKENS else None
