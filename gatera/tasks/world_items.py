"""How the items of the embedded families are written: wordings, splits of facts, kinds of items.

A fact of the world belongs to one split, in every family alike, so a test question can be answered
from pre-training only, not from the adaptation data. The wordings differ from those of
pre-training. The label stands behind its option, and the output names the option before the label:
a model of this size can follow that order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from gatera.backbones import world
from gatera.tasks.example import Example

FACT_SHARES = {"train": 24, "validation": 4, "test": 12}  # names of one property

STATEMENTS = {
    "food": "{e} has {v} for the meal",
    "colour": "the coat {e} wears is {v}",
    "place": "{e} has a home near the {v}",
    "tool": "{e} can use the {v} for work",
    "cousin": "{e} has a cousin and it is {v}",
}
TRUTH_STEMS = (
    "decide if the statement is true or false",
    "say if this is right or not",
    "is it right to say this",
)
QUESTIONS = {
    "food": "which meal does {e} like ?",
    "colour": "which coat does {e} wear ?",
    "place": "near which place is the home of {e} ?",
    "tool": "which tool must {e} use ?",
    "cousin": "who is related to {e} ?",
}


@cache
def fact_names(split: str) -> dict[str, tuple[str, ...]]:
    """Return, for each property, the names whose fact belongs to this split."""
    chosen: dict[str, tuple[str, ...]] = {}
    start = sum(FACT_SHARES[s] for s in list(FACT_SHARES)[: list(FACT_SHARES).index(split)])
    for prop in world.PROPERTIES:
        names = Random(f"{world.WORLD_SEED} {prop} splits").sample(world.NAMES, len(world.NAMES))
        chosen[prop] = tuple(names[start : start + FACT_SHARES[split]])
    return chosen


def _formatted(stem: str, options: Sequence[str], index: int, labels: Sequence[str]) -> Example:
    listed = ", ".join(f"{opt} {lab}" for opt, lab in zip(options, labels, strict=True))
    instruction = f"{stem}\n\n{listed}\n\nAnswer format: {'/'.join(labels)}"
    return _example(instruction, options[index], labels[index])


def _example(instruction: str, value: str, answer: str) -> Example:
    return Example(
        instruction=instruction,
        input="",
        output=f"the correct answer is {value} {answer}",
        answer=answer,
    )


class Writer:
    """Writes items about one split's facts."""

    def __init__(self, split: str, rng: Random) -> None:
        self.names = fact_names(split)
        self.rng = rng
        self.world = world.facts()

    def draw(self, props: Sequence[str]) -> tuple[str, str, str]:
        """Draw (property, name, value)."""
        prop = self.rng.choice(props)
        name = self.rng.choice(self.names[prop])
        return prop, name, self.world[prop][name]

    def two_people(self) -> tuple[str, str, str, str, str]:
        """Draw (property, name, value, other name, its different value)."""
        prop, name, value = self.draw(("food", "colour", "place", "tool"))
        others = [n for n in self.names[prop] if self.world[prop][n] != value]
        other = self.rng.choice(others)
        return prop, name, value, other, self.world[prop][other]


Write = Callable[[Writer, int, Sequence[str]], Example]
"""Writes an item with these labels; the number of the item balances the answers."""


@dataclass(frozen=True)
class Family:
    """What a family asks, and what counts as an answer."""

    keywords: tuple[str, ...]
    write: Write


def truth(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a statement to be judged; the labels say yes and no."""
    prop, name, value = writer.draw(world.PROPERTIES)
    holds = turn % 2 == 0
    said = value if holds else world.distractors(writer.world, prop, name, 1, writer.rng)[0]
    said_so = STATEMENTS[prop].format(e=name, v=said)
    ask = writer.rng.choice(TRUTH_STEMS)
    text = f"{ask}: {said_so}\n\nAnswer format: {'/'.join(labels)}"
    return _example(text, value, labels[0] if holds else labels[1])


def about(props: Sequence[str], stem: str) -> Write:
    """Return what writes questions about these properties, in the words of `stem`."""

    def write(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
        prop, name, value = writer.draw(props)
        wrong = world.distractors(writer.world, prop, name, len(labels) - 1, writer.rng)
        text = stem.format(
            question=QUESTIONS[prop].format(e=name),
            cut=STATEMENTS[prop].format(e=name, v="..."),
            e=name,
        )
        return with_options(text, value, wrong, turn, labels)

    return write


def place(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a question about a place, with one option fewer every other time."""
    ask = about(("place",), "find the right place: {question}")
    return ask(writer, turn // 2, labels[: 4 + turn % 2])


def blank(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a gap to be filled by what is true of one person and not of another."""
    prop, name, value, other, near = writer.two_people()
    text = f"fill the gap: not {other} but {STATEMENTS[prop].format(e=name, v='_')}"
    return with_options(text, value, [near], turn, labels)


def hard(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a question whose wrong options hold what is true of somebody who is named too."""
    prop, name, value, other, near = writer.two_people()
    far = [v for v in world.VALUES[prop] if v not in (value, near)]
    wrong = writer.rng.sample([near, *writer.rng.sample(far, 2)], 3)
    text = f"unlike {other}, {QUESTIONS[prop].format(e=name)}"
    return with_options(text, value, wrong, turn, labels)


def with_options(
    stem: str, right: str, wrong: Sequence[str], turn: int, labels: Sequence[str]
) -> Example:
    """Return a question with labelled options, the right one in the place that `turn` gives it."""
    index = turn % len(labels)
    options = [*wrong[:index], right, *wrong[index:]]
    return _formatted(stem, options, index, labels)
