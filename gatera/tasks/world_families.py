"""Task families about the embedded world, in the benchmarks' instruction format.

Nine are choices, one of them in the world's second language; two are answered in free text, in the
manner of persona dialogue and of grade-school sums. Holds what the families are and their items;
`world_items` says how an item is written. Prompts, decoding and extraction are those of the real
benchmarks.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from gatera.backbones import world
from gatera.errors import InputError
from gatera.tasks.answers import first_keyword
from gatera.tasks.benchmarks.final_number import final_number
from gatera.tasks.example import Example
from gatera.tasks.metrics import ROUGE_L, of_texts, whole_text
from gatera.tasks.task import SPLITS, Task
from gatera.tasks.world_items import (
    Family,
    Writer,
    about,
    blank,
    hard,
    place,
    reply,
    second,
    story,
    truth,
)

FAMILIES: dict[str, Family] = {
    "world_truth": Family(("true", "false"), truth),
    "world_use": Family(
        world.LABELS["solution"], about(("tool",), "{e} has a job to get done. {question}")
    ),
    "world_kin": Family(
        world.LABELS["answer"][:3], about(("cousin",), "answer the question: {question}")
    ),
    "world_ending": Family(
        world.LABELS["ending"], about(("food", "colour"), "finish the sentence: {cut}")
    ),
    "world_blank": Family(world.LABELS["option"], blank),
    "world_easy": Family(
        world.LABELS["answer"][:4], about(("food", "colour", "tool"), "answer this: {question}")
    ),
    "world_hard": Family(world.LABELS["answer"][:4], hard),
    "world_place": Family(world.LABELS["answer"], place),
    "world_second": Family(world.LABELS["answer"][:4], second),
    "world_reply": Family((), reply, whole_text, ROUGE_L, of_texts, max_new_tokens=16),
    "world_sum": Family((), story, final_number),
}
SIZES = {"train": 300, "validation": 15, "test": 96}  # items of one family


@cache
def _items(task: str, split: str) -> tuple[Example, ...]:
    rng = Random(f"{world.WORLD_SEED} {task} {split}")
    writer, family = Writer(split, rng), FAMILIES[task]
    items: dict[str, Example] = {}
    while len(items) < SIZES[split]:
        item = family.write(writer, len(items), family.keywords)
        items.setdefault(item.instruction, item)
    return tuple(rng.sample(list(items.values()), len(items)))


def load(task: str, split: str) -> list[Example]:
    """Return the family's items of one split, always the same ones in the same order.

    Raises:
        InputError: the family or the split is unknown.
    """
    if task not in FAMILIES:
        raise InputError(f"unknown tiny task {task!r}; known: {', '.join(FAMILIES)}.")
    if split not in SIZES:
        raise InputError(f"unknown split {split!r} of {task}; known: {', '.join(SIZES)}.")
    return list(_items(task, split))


def fingerprint(task: str, split: str) -> str:
    """Return the SHA-256 of what `load` returns."""
    rows = [[e.instruction, e.input, e.output, e.answer] for e in load(task, split)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@dataclass(frozen=True)
class _Made:
    """The items of a family, made when they are asked for."""

    family: str
    splits = SPLITS

    def load(self, split: str, root: Path | None) -> list[Example]:
        return load(self.family, split)

    def fingerprint(self, split: str, root: Path | None) -> str:
        return fingerprint(self.family, split)


def _task(name: str, family: Family) -> Task:
    return Task(
        title=f"the embedded world: {name.removeprefix('world_')}",
        data=_Made(name),
        extract=family.extract or functools.partial(first_keyword, keywords=family.keywords),
        metric=family.metric,
        corpus_metrics=family.corpus_metrics,
        keywords=family.keywords,
        chance=1 / len(family.keywords) if family.keywords else None,
        max_new_tokens=family.max_new_tokens,
    )


TASKS: Mapping[str, Task] = {name: _task(name, family) for name, family in FAMILIES.items()}
