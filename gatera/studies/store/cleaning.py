"""Removing what a store needs no longer: never a result.

Adapters go where a user asked for that (`--keep`): results stay, and can be compared with others;
only what needs the weights again, `gates` and `export`, then has to train them anew.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatera.studies.planning.plan import Plan
from gatera.studies.store.locks import is_locked
from gatera.studies.store.store import Store
from gatera.training.attempt_files import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    PREDICTIONS_FILE,
)
from gatera.trial import Trial, TrialResult

_TEMPORARY = "tmp"
_YOUNG_SECONDS = 600.0


@dataclass(frozen=True)
class Removal:
    """A file or folder that can go."""

    path: Path
    reason: str
    size: int  # bytes


def removable(store: Store) -> list[Removal]:
    """Return what can go, by path; nothing of a trial that runs, and no result.

    Checkpoints serve a trial that is not finished, those of its earlier attempts too: they stay.
    Adapters serve other trials of the same weights, and answers those that ask the same. Logs and
    metrics are small and say what happened: they stay.
    """
    found: list[Removal] = []
    kept = store.weights.holders()
    for folder in sorted((store.folder / "trials").iterdir()):
        result = store.result(folder.name)
        for attempt in sorted((folder / "attempts").glob("[0-9]*")):
            if not store.claims.is_held(folder.name, int(attempt.name)):
                holds = (folder.name, int(attempt.name)) in kept
                found += _of_attempt(attempt, result, holds_weights=holds)
        if not store.is_running(folder.name):
            left = (path for path in folder.glob(".*") if _is_abandoned(path))
            found += [_removal(path, "left by a killed process") for path in left]
    return found


def _of_attempt(
    attempt: Path, result: TrialResult | None, *, holds_weights: bool
) -> Iterator[Removal]:
    names = {_TEMPORARY: "temporary files of an attempt that ended"}
    if result is not None:
        names[CHECKPOINT_FOLDER] = "checkpoints of a finished trial"
        if int(attempt.name) != result.attempt:
            names[PREDICTIONS_FILE] = "of an attempt that does not count"
        if not holds_weights:
            names[ADAPTER_FOLDER] = "of an attempt whose weights do not count"
    for name, reason in names.items():
        if (attempt / name).exists():
            yield _removal(attempt / name, reason)


def surplus_adapters(
    store: Store, plans: Sequence[Plan], keep: str, *, beside: Trial | None = None
) -> list[Removal]:
    """Return the adapters that no trial of the plans needs any more, and that nobody asked to keep.

    Args:
        store: The store.
        plans: Whose trials' adapters may go.
        keep: "all": every adapter stays. "best": of each row that of the finished trial with the
            highest validation accuracy, of equals the first; test items choose nothing. "none".
        beside: Look only at the rows that share weights with this trial, and at its own; None: at
            all rows.
    """
    if keep == "all":
        return []
    stays: set[str] = set()  # training keys
    done: dict[str, Trial] = {}  # by training key
    for trials in _rows(plans, beside):
        finished = [trial for trial in trials if store.has_result(trial.key)]
        stays |= {trial.training_key for trial in trials} - {t.training_key for t in finished}
        done |= {trial.training_key: trial for trial in finished}
        if keep == "best" and finished:
            stays.add(max(finished, key=lambda trial: _validated(store, trial)).training_key)
    found = []
    for training_key in sorted(done.keys() - stays):
        maker = store.weights.maker(training_key)
        folder = store.attempt_folder(*maker) / ADAPTER_FOLDER if maker is not None else None
        if folder is not None and folder.exists():
            found.append(_removal(folder, f"adapter of a finished trial (--keep {keep})"))
    return found


def _rows(plans: Sequence[Plan], beside: Trial | None) -> Iterator[list[Trial]]:
    """Yield the trained trials of each row that is looked at, in the order of their seeds."""
    for plan in plans:
        rows = {trial.variant: plan.trials_of(trial.variant) for trial in plan.trials}
        for variant, trials in rows.items():
            if not trials[0].is_frozen and (beside is None or _share(beside, variant, trials)):
                yield trials


def _share(beside: Trial, variant: str, trials: Sequence[Trial]) -> bool:
    """Return whether a trial is one of a row, or shares weights with one of it."""
    keys = {trial.training_key for trial in trials}
    return beside.variant == variant or beside.training_key in keys


def _validated(store: Store, trial: Trial) -> float:
    result = store.result(trial.key)
    return 0.0 if result is None else float(result.metrics.get("val/accuracy", 0.0))


def _is_abandoned(path: Path) -> bool:
    """Return whether nobody may be about to give a temporary file its name."""
    with contextlib.suppress(FileNotFoundError):
        return not is_locked(path) and time.time() - path.stat().st_mtime > _YOUNG_SECONDS
    return False


def _removal(path: Path, reason: str) -> Removal:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return Removal(path, reason, sum(each.lstat().st_size for each in files if each.is_file()))


def remove(removals: list[Removal]) -> None:
    """Remove them."""
    for removal in removals:
        if removal.path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # of two who remove, one is late
                shutil.rmtree(removal.path)
        else:
            removal.path.unlink(missing_ok=True)


def removal_lines(store: Store, removals: list[Removal]) -> list[str]:
    """Return what would go, one line each, and what that frees."""
    lines = [
        f"{_megabytes(each.size):>10}  {each.path.relative_to(store.folder)}  ({each.reason})"
        for each in removals
    ]
    total = sum(each.size for each in removals)
    return [*lines, f"{_megabytes(total):>10}  in all, {len(removals)} files and folders"]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
