"""What training minimizes: the loss on tokens plus λ times the gates' entropy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepShare:
    """The share that one forward pass has in its optimizer step, where a step takes several.

    The loss of a step is the mean over its learned tokens, and its entropy the mean over its real
    tokens, however it is split.
    """

    learned: float  # of the step's learned tokens
    tokens: float  # of its real tokens, prompt and response


def step_loss(
    token_loss: Tensor, entropy: Tensor, entropy_weight: float, share: StepShare
) -> Tensor:
    """Return what one forward pass adds to its step's loss.

    Args:
        token_loss: Mean cross-entropy over the pass's learned tokens, in nats.
        entropy: Mean entropy of the gates over the pass's real tokens, in nats.
        entropy_weight: λ.
        share: What the pass is of its step; both shares are 1 where it is the whole.

    Source: GateRA, arXiv:2511.17582: the loss of the task plus λ times the entropy.
    """
    loss = token_loss * share.learned
    return loss if entropy_weight == 0.0 else loss + entropy_weight * (entropy * share.tokens)


def all_finite(tensors: list[Tensor]) -> bool:
    """Return whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
