"""The sections `train` and `eval` of a trial's configuration, checked and typed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gatera.errors import InputError
from gatera.trial import VALIDATION_ONLY

SCHEDULES = ("linear", "cosine", "constant")
LOSS_MASKS = ("answer", "all")
METHODS = ("generate", VALIDATION_ONLY)


@dataclass(frozen=True)
class TrainSettings:
    """How an adapter is trained."""

    learning_rate: float  # highest of the schedule
    entropy_weight: float  # λ: nats of gate entropy are added to the loss with this factor
    batch_size: int  # items an optimizer step sees
    accumulation: int  # forward passes that such a batch is split into
    max_steps: int | None  # optimizer steps; None: given by epochs
    epochs: int | None  # passes over the training items; None: given by max_steps
    warmup_steps: int | None  # None: 10 % of the steps, at most 100
    schedule: str  # after the warm-up; one of SCHEDULES
    weight_decay: float
    gradient_clip: float | None  # norm that gradients are cut down to; None: never
    loss_mask: str  # "answer": loss on response tokens; "all": on the prompt too
    dtype: str  # of the frozen weights; adapters are float32
    max_tokens: int  # of prompt and response; what exceeds is cut from the prompt's front
    val_every: int  # optimizer steps between validations
    checkpoint_every: int  # optimizer steps between checkpoints
    gradient_checkpointing: bool

    def __post_init__(self) -> None:
        _check_choice("train.schedule", self.schedule, SCHEDULES)
        _check_choice("train.loss_mask", self.loss_mask, LOSS_MASKS)
        _check_positive(
            "train",
            self,
            ("batch_size", "accumulation", "max_tokens", "val_every", "checkpoint_every"),
        )
        if self.max_steps is None and self.epochs is None:
            raise InputError("train.max_steps and train.epochs are both null; give one of them.")
        if self.batch_size % self.accumulation:
            raise InputError(
                f"train.batch_size={self.batch_size} cannot be split into "
                f"train.accumulation={self.accumulation} equal parts; give a divisor."
            )

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> Self:
        """Read the section `train`.

        Raises:
            InputError: a field is unknown, missing or out of range.
        """
        return cls(**_exact_fields(cls, "train", section))

    def total_steps(self, steps_in_epoch: int) -> int:
        """Return the number of optimizer steps: the smaller of the two limits that are given."""
        limits = [self.max_steps] if self.max_steps is not None else []
        if self.epochs is not None:
            limits.append(self.epochs * steps_in_epoch)
        return min(limits)

    def learning_rate_factor(self, step: int, total_steps: int) -> float:
        """Return the share of `learning_rate` at an optimizer step, counted from 0.

        Linear from 1/warmup to 1 over the warm-up, then down to 0 at `total_steps`.
        """
        warmup = self.warmup_steps
        if warmup is None:
            warmup = min(100, total_steps // 10)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        if self.schedule == "linear":
            return max(0.0, 1.0 - progress)
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
        return 1.0


@dataclass(frozen=True)
class EvalSettings:
    """How test items are answered."""

    limit: int | None  # items of each test set, the first by content hash; None: all
    beams: int  # 1: greedy
    max_new_tokens: int
    method: str  # one of METHODS
    batch_size: int  # items generated for at once
    knowledge: str | None = None  # held-out text: "world" or a file's path; None: not measured

    def __post_init__(self) -> None:
        _check_choice("eval.method", self.method, METHODS)
        _check_positive("eval", self, ("beams", "max_new_tokens", "batch_size"))

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> Self:
        """Read the section `eval`.

        Raises:
            InputError: a field is unknown, missing or out of range.
        """
        return cls(**_exact_fields(cls, "eval", section))


def _exact_fields(cls: type[Any], name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    fields = dataclasses.fields(cls)
    known = {field.name for field in fields}
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    for problem, names in (("unknown", set(section) - known), ("missing", needed - set(section))):
        if names:
            raise InputError(
                f"{problem} in the section {name!r}: {', '.join(sorted(names))}; its fields are "
                f"{', '.join(sorted(known))}."
            )
    return dict(section)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name}={value!r} is unknown; expected one of {', '.join(known)}.")


def _check_positive(section: str, settings: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise InputError(f"{section}.{name}={getattr(settings, name)}; expected at least 1.")
