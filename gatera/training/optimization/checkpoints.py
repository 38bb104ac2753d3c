"""Checkpoints of a trial: the adapter and its optimizer, never the frozen weights."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatera.training import attempt_files

logger = logging.getLogger(__name__)

KEPT = 2  # newest checkpoints that are kept: one more than needed, should one be damaged


@dataclass
class Best:
    """The state that is kept: the best that validation has seen, or the mean of the last."""

    step: int  # optimizer steps done
    accuracy: float
    loss: float
    weights: dict[str, Tensor]

    def is_better_than(self, other: Best | None) -> bool:
        """Whether accuracy is higher, or as high with a lower loss; ties keep the earlier."""
        if other is None:
            return True
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclass
class TrainState:
    """All that training goes on from."""

    trial: str  # the trial's key and the code's hash; another trial's state is of no use
    step: int = 0  # optimizer steps done
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    recent: list[dict[str, float]] = field(default_factory=list)  # values of the last steps
    best: Best | None = None
    # weights at the last validations, the oldest first; none unless their mean is kept
    last: list[dict[str, Tensor]] = field(default_factory=list)


def mean_weights(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several states of the same parameters, by name."""
    return {
        name: (sum(each[name].double() for each in found) / len(found)).to(value.dtype)  # type: ignore[union-attr]
        for name, value in found[0].items()
    }


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all trained parameters, by name, on the CPU."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def restore_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put the values that `trainable_weights` returned back in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def save(folder: Path, state: TrainState) -> None:
    """Write a checkpoint that is on disk complete or not at all; remove all but the newest.

    Its name holds the hash of its bytes, so that damage is noticed: torch reads past it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "unfinished.tmp"
    best = None if state.best is None else dataclasses.asdict(state.best)
    try:
        with temporary.open("wb+") as handle:
            torch.save({**vars(state), "best": best}, handle)
            handle.flush()
            os.fsync(handle.fileno())
            handle.seek(0)
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        os.replace(temporary, folder / attempt_files.checkpoint_name(state.step, digest))
        attempt_files.sync_to_disk(folder)
    finally:
        temporary.unlink(missing_ok=True)  # what a full disk cut short would keep it full
    for _, _, old in attempt_files.checkpoints(folder)[:-KEPT]:
        old.unlink()


def newest(folders: Sequence[Path], trial: str) -> TrainState | None:
    """Return the state of the most advanced checkpoint that is whole and belongs to the trial.

    Args:
        folders: Where to look, in any order.
        trial: What `TrainState.trial` must be.
    """
    found = sorted(
        (each for folder in folders for each in attempt_files.checkpoints(folder)), reverse=True
    )
    for _, digest, path in found:
        try:
            state = _load(path, digest)
        except Exception as error:  # a damaged file raises anything from zip to pickle errors
            logger.warning("checkpoint %s does not load (%s); trying an older one", path, error)
            continue
        if state.trial == trial:
            return state
        logger.warning("checkpoint %s is another trial's or older code's; passed over", path)
    return None


def _load(path: Path, digest: str) -> TrainState:
    with path.open("rb") as handle:
        if not hashlib.file_digest(handle, "sha256").hexdigest().startswith(digest):
            raise ValueError("its bytes are not those that were written")
        handle.seek(0)
        values = torch.load(handle, weights_only=True, map_location="cpu")
    best = values.pop("best")
    return TrainState(**values, best=None if best is None else Best(**best))
