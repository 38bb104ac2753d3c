"""How likely a language model finds the labelled tokens of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gatera.training.data import IGNORED


def token_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy over the labelled tokens of a left-padded batch, in nats.

    Only the logits from the first labelled position on are computed: with the loss on short
    answers, most of a large vocabulary's output layer is saved.

    Args:
        model: A causal language model whose forward takes `logits_to_keep`.
        batch: input_ids, attention_mask and labels, each (batch, tokens).
    """
    mask, labels = batch["attention_mask"], batch["labels"]
    labelled = (labels != IGNORED).any(dim=0).int()
    kept = labels.shape[1] - int(labelled.argmax())  # from the first labelled column to the end
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=kept + 1,  # the logits of a token stand one position before it
        use_cache=False,
    )
    logits = output.logits[:, -(kept + 1) : -1]  # (batch, kept, vocabulary)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    targets = labels[:, -kept:][:, -logits.shape[1] :]
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
