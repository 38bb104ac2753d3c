"""What a trained adapter's gates do on test items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gatera.adapter import GateStatistics, record_gates
from gatera.tasks.decoding import padding_token
from gatera.training.data import collate
from gatera.training.losses import token_loss
from gatera.training.scoring import Questions

ITEMS_PER_TASK = 32  # the first of each test set; gates vary between layers, little between items


def survey_gates(
    model: Any, tokenizer: Any, asked: Sequence[Questions], batch_size: int
) -> dict[str, Any]:
    """Return gate statistics over prompts followed by their right responses.

    Args:
        model: The adapted model; it is left in evaluation mode.
        tokenizer: Its tokenizer.
        asked: The test items of each task, of which the first `ITEMS_PER_TASK` are used.
        batch_size: Items in a forward pass.

    Returns:
        {"overall", "prompt", "answer": {mean, share_below_0.1, share_above_0.9, entropy, and
        share_skipped with a threshold}, each the mean over modules; "modules": {module: the same
        over all tokens}; "items"}. Empty where nothing is gated. Prompt tokens include the last,
        which predicts the first of the answer.
    """
    model.eval()
    overall, prompt, answer = GateStatistics(), GateStatistics(), GateStatistics()
    pad = padding_token(tokenizer)
    items = 0
    for questions in asked:
        places = list(range(min(ITEMS_PER_TASK, len(questions))))
        items += len(places)
        for start in range(0, len(places), batch_size):
            batch = collate(questions.encoded, places[start : start + batch_size], pad)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with torch.no_grad(), record_gates(model, batch["attention_mask"]) as gates:
                token_loss(model, batch)
            if not gates.overall():
                return {}
            gates.add_to(overall)
            gates.add_to(prompt, tokens=1 - batch["answer_mask"])
            gates.add_to(answer, tokens=batch["answer_mask"])
    return {
        "overall": overall.overall(),
        "prompt": prompt.overall(),
        "answer": answer.overall(),
        "modules": overall.modules(),
        "items": items,
    }
