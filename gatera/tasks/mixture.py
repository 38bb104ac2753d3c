"""Training and validation items of several tasks together, kept apart from the test items."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.example import Example, content_hash, question_hashes
from gatera.trial import sha256_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """An example and the task it belongs to."""

    task: str
    example: Example


@dataclass(frozen=True)
class Mixture:
    """What one trial trains on and is selected by."""

    train: list[Item]
    validation: list[Item]
    dropped_items: int  # training items left out since their question is tested or validated on


def load_mixture(
    train_tasks: Sequence[str],
    validation_items: int,
    root: Path | None,
    left_out: Collection[str] = (),
) -> Mixture:
    """Gather the training and validation items of several tasks; no test set is read.

    Validation items are the first `validation_items` of the tasks' validation splits in the order
    of their content hash. No validation question trains, and no question whose content hash is in
    `left_out` is in either part: those that a scored test set asks (`questions_also_tested`). The
    same holds of an item's further questions, those that it was made of.

    Raises:
        InputError: data is missing or malformed, or there are fewer validation items than wanted.
    """
    excluded = set(left_out)
    candidates = _items(train_tasks, "validation", root)
    validation = _first_by_hash(candidates, excluded, validation_items)
    kept_out = excluded.union(*(question_hashes(item.example) for item in validation))
    train = _items(train_tasks, "train", root)
    kept = [item for item in train if kept_out.isdisjoint(question_hashes(item.example))]
    dropped = len(train) - len(kept)
    if dropped:
        logger.info("%d training items left out: their question is also tested on", dropped)
    return Mixture(kept, validation, dropped)


def items_sha256(mixture: Mixture) -> str:
    """Return the hash of all items that train and validate, in their order."""
    parts = (mixture.train, mixture.validation)
    return sha256_of([[[item.task, *_fields(item.example)] for item in part] for part in parts])


def _fields(example: Example) -> tuple[str, ...]:
    return (example.instruction, example.input, example.output, example.answer)


def questions_also_tested(
    train_tasks: Sequence[str], scored_tasks: Sequence[str], root: Path | None
) -> dict[str, list[str]]:
    """Return what a test set asks of the training and validation items: scored task -> hashes.

    Given to `load_mixture` as `left_out`, the hashes keep training apart from what is tested, for
    somebody who may not read test sets. Tasks that share nothing are not there.

    Raises:
        InputError: data is missing or malformed.
    """
    items = (item for split in ("train", "validation") for item in _items(train_tasks, split, root))
    asked = {digest for item in items for digest in question_hashes(item.example)}
    shared = {task: sorted(asked & _tested(task, root)) for task in scored_tasks}
    return {task: hashes for task, hashes in shared.items() if hashes}


def _tested(task: str, root: Path | None) -> set[str]:
    return {content_hash(example) for example in tasks.load(task, "test", root)}


def _items(train_tasks: Sequence[str], split: str, root: Path | None) -> list[Item]:
    return [
        Item(task, example) for task in train_tasks for example in tasks.load(task, split, root)
    ]


def _first_by_hash(candidates: list[Item], excluded: set[str], count: int) -> list[Item]:
    by_hash = {
        content_hash(item.example): item
        for item in reversed(candidates)
        if excluded.isdisjoint(question_hashes(item.example))
    }
    usable = sorted(by_hash)
    if len(usable) < count:
        raise InputError(
            f"train.validation_items is {count}, but the training tasks hold out only "
            f"{len(usable)} items; ask for at most that many: "
            f"--set train.validation_items={len(usable)}."
        )
    return [by_hash[digest] for digest in usable[:count]]
