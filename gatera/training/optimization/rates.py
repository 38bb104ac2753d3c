"""How long training lasts, and its learning rate at each step."""

from __future__ import annotations

import math

from gatera.settings import TrainSettings


def total_steps(settings: TrainSettings, steps_in_epoch: int) -> int:
    """Return the number of optimizer steps: the smaller of the two limits that are given."""
    limits = [settings.max_steps] if settings.max_steps is not None else []
    if settings.epochs is not None:
        limits.append(settings.epochs * steps_in_epoch)
    return min(limits)


def learning_rate_factor(settings: TrainSettings, step: int, total_steps: int) -> float:
    """Return the share of `learning_rate` at an optimizer step, counted from 0.

    Linear from 1/warmup to 1 over the warm-up, then down to 0 at `total_steps`.
    """
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = min(100, total_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    if settings.schedule == "linear":
        return max(0.0, 1.0 - progress)
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return 1.0
