"""Data sets, prompts, decoding and answer extraction; light to import.

A task is known by its name. The real benchmarks are read from a data root (an argument, else the
environment variable GATERA_DATA_ROOT, else the hub); the families of the embedded scale need none.
`prompts` builds what a model reads, `decoding` generates, `answers` reads the answer out of it;
`mixture` keeps training, validation and test apart. A new benchmark is an entry of
`commonsense.BENCHMARKS` (and of `hub_data.SOURCES`, to be had from the hub), a new family of the
embedded world one of `world_families.FAMILIES`. What answers are worth is `gatera.training`'s.
"""

from __future__ import annotations

import os
from pathlib import Path

from gatera.errors import InputError
from gatera.tasks import commonsense, hub_data, world_families
from gatera.tasks.answers import first_keyword
from gatera.tasks.example import Example

__all__ = [
    "SPLITS",
    "Example",
    "chance",
    "extract_answer",
    "fingerprint",
    "keywords",
    "load",
    "names",
]

SPLITS = ("train", "validation", "test")

DATA_ROOT_VARIABLE = "GATERA_DATA_ROOT"


def names() -> tuple[str, ...]:
    """Return the tasks that can be scored: the real benchmarks, then the embedded families."""
    embedded = (task for task, family in world_families.FAMILIES.items() if family.keywords)
    return (*commonsense.BENCHMARKS, *embedded)


def keywords(task: str) -> tuple[str, ...]:
    """Return the words that count as answers of a task.

    Raises:
        InputError: the task is unknown, or only trained on.
    """
    if task in world_families.FAMILIES and world_families.FAMILIES[task].keywords:
        return world_families.FAMILIES[task].keywords
    if task in commonsense.BENCHMARKS:
        return commonsense.BENCHMARKS[task].keywords
    raise InputError(f"unknown task {task!r}; known tasks: {', '.join(names())}.")


def chance(task: str) -> float:
    """Return the accuracy of guessing among the choices that the items of a task usually have.

    Raises:
        InputError: the task is unknown, or only trained on.
    """
    if task in commonsense.BENCHMARKS:
        return commonsense.BENCHMARKS[task].chance
    return 1 / len(keywords(task))


def extract_answer(task: str, text: str) -> str | None:
    """Return the first answer keyword of a task in `text`, None where there is none.

    Letter case is ignored, and only whole words count.

    Raises:
        InputError: the task is unknown, or only trained on.
    """
    return first_keyword(text, keywords(task))


def load(task: str, split: str, root: Path | None = None) -> list[Example]:
    """Return a split of a task.

    Args:
        task: One of `names()`, or `commonsense_170k`, which has no test split.
        split: train, validation or test.
        root: The data root; None for GATERA_DATA_ROOT, and the hub where that is unset too.

    Raises:
        InputError: the task or the split is unknown, or the data is missing or malformed.
    """
    check(task, split)
    if task in world_families.FAMILIES:
        return world_families.load(task, split)
    root = data_root(root)
    if root is None:
        return hub_data.load(task, split)
    return commonsense.load(task, split, root)


def fingerprint(task: str, split: str, root: Path | None = None) -> str:
    """Return the SHA-256 of what `load` reads for the same arguments, in hex.

    Raises:
        InputError: as `load`, but malformed records may go unseen.
    """
    check(task, split)
    if task in world_families.FAMILIES:
        return world_families.fingerprint(task, split)
    root = data_root(root)
    if root is None:
        return hub_data.fingerprint(task, split)
    return commonsense.fingerprint(task, split, root)


def data_root(root: Path | None) -> Path | None:
    """Return the data root in use: the one given, else that of the environment, else None.

    Raises:
        InputError: it is not a folder.
    """
    source = "--data-root"
    if root is None:
        named = os.environ.get(DATA_ROOT_VARIABLE)
        if not named:
            return None
        root, source = Path(named), DATA_ROOT_VARIABLE
    if not root.is_dir():
        raise InputError(
            f"the data root {root} (from {source}) is not a folder; give one that holds "
            "commonsense/<benchmark>/test.json."
        )
    return root


def check(task: str, split: str) -> None:
    """Refuse a task that has no such split.

    Raises:
        InputError: the task or the split is unknown, or a training set is to be tested on.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    if task == commonsense.JOINT_TRAINING_SET and split == "test":
        raise InputError(
            f"{task} is a training set and has no test split; it can stand in data.train_tasks, "
            f"not among the tasks that are scored: {', '.join(names())}."
        )
    if task != commonsense.JOINT_TRAINING_SET and task not in world_families.FAMILIES:
        keywords(task)
