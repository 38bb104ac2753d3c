"""Data sets, prompts, decoding and answer extraction; light to import.

A task is known by its name, and described by one `Task`. The real benchmarks are read from a data
root (an argument, else the environment variable GATERA_DATA_ROOT, else the hub); the families of
the embedded scale need none. `prompts` builds what a model reads, `decoding` generates, `answers`
reads the answer out of it; `mixture` keeps training, validation and test apart. A new benchmark is
an entry of its family's table (`BENCHMARKS` in its file of `benchmarks`), a new family a file with
a table `TASKS` and its line in `FAMILIES`. Running models is `gatera.training`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gatera.errors import InputError
from gatera.tasks import world_families
from gatera.tasks.benchmarks import commonsense, dialogue, mathematics, multilingual
from gatera.tasks.example import Example
from gatera.tasks.task import SPLITS, Task

__all__ = [
    "SPLITS",
    "Example",
    "Task",
    "extract_answer",
    "find",
    "fingerprint",
    "load",
    "names",
    "scored",
]

FAMILIES: Mapping[str, Mapping[str, Task]] = {
    "commonsense": commonsense.TASKS,
    "mathematics": mathematics.TASKS,
    "multilingual": multilingual.TASKS,
    "dialogue": dialogue.TASKS,
    "world_families": world_families.TASKS,
}


def names() -> tuple[str, ...]:
    """Return the tasks that can be scored: the real benchmarks, then the embedded families."""
    return tuple(
        name for tasks in FAMILIES.values() for name, task in tasks.items() if task.is_scored
    )


def find(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        InputError: there is none.
    """
    for tasks in FAMILIES.values():
        if name in tasks:
            return tasks[name]
    raise InputError(f"unknown task {name!r}; known tasks: {', '.join(names())}.")


def scored(name: str) -> Task:
    """Return the task called `name`, one that can be scored.

    Raises:
        InputError: it is unknown, or only trained on.
    """
    task = find(name)
    if not task.is_scored:
        raise InputError(
            f"{name} is a training set and has no test split; it can stand in data.train_tasks, "
            f"not among the tasks that are scored: {', '.join(names())}."
        )
    return task


def extract_answer(task: str, text: str) -> str | None:
    """Return what answers a task in `text`, None where nothing does.

    Of a task with answer keywords that is the first of them; letter case is ignored, and only whole
    words count.

    Raises:
        InputError: the task is unknown.
    """
    return find(task).extract(text)


def load(task: str, split: str, root: Path | None = None) -> list[Example]:
    """Return a split of a task.

    Args:
        task: One of `names()`, or a training set, which has no test split.
        split: train, validation or test.
        root: The data root; None for GATERA_DATA_ROOT, and the hub where that is unset too.

    Raises:
        InputError: the task or the split is unknown, or the data is missing or malformed.
    """
    check(task, split)
    return find(task).data.load(split, root)


def fingerprint(task: str, split: str, root: Path | None = None) -> str:
    """Return the SHA-256 of what `load` reads for the same arguments, in hex.

    Raises:
        InputError: as `load`, but malformed records may go unseen.
    """
    check(task, split)
    return find(task).data.fingerprint(split, root)


def check(task: str, split: str) -> None:
    """Refuse a task that has no such split.

    Raises:
        InputError: the task or the split is unknown, or a training set is to be tested on, or a
            test set trained on.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    found = scored(task) if split == "test" else find(task)
    if split not in found.data.splits:
        raise InputError(
            f"{task} is a test set and has no {split} split; it can be scored, but not stand in "
            "data.train_tasks."
        )
