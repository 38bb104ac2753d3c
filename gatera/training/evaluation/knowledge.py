"""How much pre-trained knowledge is kept: the loss on held-out pre-training text.

GateRA (arXiv:2511.17582) claims that its gates keep knowledge and does not measure it; this does,
with and without the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gatera.errors import InputError
from gatera.tasks.decoding import padding_token
from gatera.tasks.held_out import held_out_sentences
from gatera.training.data import Encoded, collate
from gatera.training.evaluation.likelihood import token_loss
from gatera.training.logits import IGNORED

WORLD = "world"  # held-out sentences of the embedded world
WINDOW_TOKENS = 256  # a text is cut into windows of this length
MAX_WINDOWS = 64  # the first ones: enough for a stable mean, seconds even on a CPU


def knowledge_losses(
    model: Any, tokenizer: Any, source: str | None, batch_size: int, *, adapted: bool
) -> dict[str, float]:
    """Return the loss on held-out text with the adapter and without it.

    Args:
        model: The model, adapted or not; it is left in evaluation mode.
        tokenizer: Its tokenizer.
        source: "world", or the path of a text file; None: nothing is measured.
        batch_size: Windows in a forward pass.
        adapted: Whether the model has an adapter to switch off.

    Returns:
        {"knowledge/loss"} and, where adapted, {"knowledge/loss_before"}, the frozen backbone's:
        mean cross-entropy of a token, in nats. Empty where nothing is measured.

    Raises:
        InputError: the file cannot be read or is too short.
    """
    if source is None:
        return {}
    model.eval()
    windows = _encode(_sequences(tokenizer, source))
    losses = {"knowledge/loss": _mean_loss(model, tokenizer, windows, batch_size)}
    if adapted:
        with model.disable_adapter():
            before = _mean_loss(model, tokenizer, windows, batch_size)
        losses["knowledge/loss_before"] = before
    return losses


def _sequences(tokenizer: Any, source: str) -> list[list[int]]:
    """Return token ids: a sentence of the world each, or windows of a file's text."""
    if source == WORLD:
        return list(tokenizer(held_out_sentences())["input_ids"])
    try:
        text = Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"eval.knowledge: {source} cannot be read as text ({error}).") from error
    # Six characters a token are more than any tokenizer here packs into the windows we keep.
    ids = tokenizer(text[: 6 * WINDOW_TOKENS * MAX_WINDOWS])["input_ids"]
    starts = range(0, min(len(ids), WINDOW_TOKENS * MAX_WINDOWS), WINDOW_TOKENS)
    windows = [ids[start : start + WINDOW_TOKENS] for start in starts]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise InputError(f"eval.knowledge: {source} holds fewer than two tokens; give more text.")
    return windows


def _encode(sequences: Sequence[list[int]]) -> Encoded:
    """Return sequences whose every token but the first counts for the loss."""
    lengths = [len(sequence) for sequence in sequences]
    ids = np.array([token for sequence in sequences for token in sequence], np.int32)
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    return Encoded(ids, starts, np.ones(len(sequences), np.int32), 0)


def _mean_loss(model: Any, tokenizer: Any, windows: Encoded, batch_size: int) -> float:
    pad = padding_token(tokenizer)
    total, tokens = 0.0, 0
    order = np.argsort(windows.lengths, kind="stable").tolist()
    for start in range(0, len(order), batch_size):
        batch = collate(windows, order[start : start + batch_size], pad)
        count = int((batch["labels"] != IGNORED).sum())
        with torch.no_grad():
            loss = token_loss(model, {name: t.to(model.device) for name, t in batch.items()})
        total += float(loss) * count
        tokens += count
    return total / tokens
