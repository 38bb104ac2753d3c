"""Tokens and what the gates did at each: plain values, read by reports; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GatedModule:
    """Where a gate stands: an adapted layer, or the block whose layers share it."""

    name: str  # in the base model, such as "model.layers.0.self_attn.q_proj"

    @property
    def layer(self) -> int | None:
        """The number of its transformer block, from 0; None where its name has no number."""
        numbers = [part for part in self.name.split(".") if part.isdigit()]
        return int(numbers[0]) if numbers else None

    @property
    def kind(self) -> str:
        """What it is called in every block: "q_proj"; "block" of a gate that a block shares."""
        last = self.name.rpartition(".")[2]
        return "block" if last.isdigit() else last


@dataclass(frozen=True)
class GatedText:
    """One prompt, what the model wrote after it, and the gates at each of these tokens.

    What is written last, the end-of-sequence token as a rule, is fed to no layer, so that no gate
    acts on it: it is not here.
    """

    task: str  # "" of a prompt of the user's own
    index: int  # of the item in its test set, or of the user's prompt among theirs, from 0
    cluster: str  # items of one cluster ask about the same thing; "": each about its own
    tokens: tuple[str, ...]  # of the prompt, then those decoded
    prompt_tokens: int  # how many are the prompt's
    values: np.ndarray  # g, (modules, tokens), float32; mean over channels where each has a gate
    closed: np.ndarray  # whether `gate_threshold` skips the update, (modules, tokens), bool
    output: str  # what the model wrote, special tokens left out
    score: float | None  # what that is worth by the task's metric; None of a prompt of one's own

    @property
    def decoded_tokens(self) -> int:
        """How many tokens were written and fed back."""
        return len(self.tokens) - self.prompt_tokens


@dataclass(frozen=True)
class TokenGates:
    """The gates of one trained model on a number of texts."""

    modules: Sequence[GatedModule]
    layers: int  # transformer blocks of the model, gated or not
    constant: bool  # whether each gate has one value, whatever the token
    threshold: float  # below it a gate is closed; 0 closes none
    texts: Sequence[GatedText]
