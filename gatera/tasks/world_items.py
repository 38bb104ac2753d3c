"""How the items of the embedded families are written: wordings, splits of facts, kinds of items.

A fact of the world belongs to one split, in every family alike, so a test question can be answered
from pre-training only, not from the adaptation data. The wordings differ from those of
pre-training. The label stands behind its option, and the output names the option before the label:
a model of this size can follow that order.

Sums and replies need no fact of the world: a sum (two numbers and a sign) belongs to one split
likewise, and so does what a reply must say, which stands in its question.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from gatera.backbones import world
from gatera.tasks.example import Example
from gatera.tasks.task import ACCURACY, CorpusMetrics, Metric

FACT_SHARES = {"train": 72, "validation": 12, "test": 36}  # names of one property
SUM_SHARES = {"train": 240, "validation": 40, "test": 120}
PERSONA_SHARES = {"train": 5, "validation": 1, "test": 2}  # values of one property

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


STORIES = {
    "+": "{e} has {a} {thing} and gets {b} more. how many {thing} has {e} ?",
    "-": "{e} has {a} {thing} and gives {b} away. how many {thing} has {e} ?",
}
ASKED = {  # of somebody whose persona is known
    "food": ("hello, what do you eat ?", "tell me about your meal."),
    "colour": ("hello, what do you wear ?", "tell me about your coat."),
    "place": ("hello, where do you live ?", "tell me about your home."),
    "tool": ("hello, what do you work with ?", "tell me about your job."),
}
REPLIES = {
    "food": ("well , i eat {v} for my meal", "yes , i like to eat {v}"),
    "colour": ("well , i wear {v} and it is good", "my coat is good , i wear {v}"),
    "place": ("well , i live near the {v} , and you ?", "yes , i live near the {v}"),
    "tool": ("well , i work with the {v}", "for my job i work with the {v}"),
}


@cache
def fact_names(split: str) -> dict[str, tuple[str, ...]]:
    """Return, for each property, the names whose fact belongs to this split."""
    chosen: dict[str, tuple[str, ...]] = {}
    for prop in world.PROPERTIES:
        names = Random(f"{world.WORLD_SEED} {prop} splits").sample(world.NAMES, len(world.NAMES))
        chosen[prop] = tuple(names[_places(FACT_SHARES, split)])
    return chosen


@cache
def sums(split: str) -> tuple[tuple[int, str, int, int], ...]:
    """Return the sums and differences (a, sign, b, result) that belong to this split."""
    numbers = range(1, world.LARGEST + 1)
    pairs = list(itertools.product(numbers, numbers))
    found = [(a, "+", b, a + b) for a, b in pairs if a + b <= world.LARGEST]
    found += [(a, "-", b, a - b) for a, b in pairs if a >= b]
    shuffled = Random(f"{world.WORLD_SEED} sums splits").sample(found, len(found))
    return tuple(shuffled[_places(SUM_SHARES, split)])


@cache
def persona_values(split: str) -> dict[str, tuple[str, ...]]:
    """Return, for each property, the values that this split asks a persona about."""
    return {
        prop: tuple(
            Random(f"{world.WORLD_SEED} {prop} personas").sample(world.VALUES[prop], world.BLOCK)
        )[_places(PERSONA_SHARES, split)]
        for prop in world.DOINGS
    }


def _places(shares: Mapping[str, int], split: str) -> slice:
    """Return where the share of a split lies."""
    start = sum(shares[s] for s in itertools.takewhile(lambda s: s != split, shares))
    return slice(start, start + shares[split])


def _formatted(
    stem: str, options: Sequence[str], index: int, labels: Sequence[str], cluster: str
) -> Example:
    listed = ", ".join(f"{opt} {lab}" for opt, lab in zip(options, labels, strict=True))
    instruction = f"{stem}\n\n{listed}\n\nAnswer format: {'/'.join(labels)}"
    return _choice(instruction, options, index, labels, cluster)


def _choice(
    instruction: str, values: Sequence[str], index: int, labels: Sequence[str], cluster: str
) -> Example:
    """Return a question that is answered by a value and the label that belongs to it."""
    outputs = [f"the correct answer is {v} {lab}" for v, lab in zip(values, labels, strict=True)]
    return Example(
        instruction=instruction,
        input="",
        output=outputs[index],
        answer=labels[index],
        options=tuple(outputs),
        cluster=cluster,
    )


def fact_id(prop: str, name: str) -> str:
    """Return what tells a fact from others; items that ask about it share it."""
    return f"{prop} of {name}"


class Writer:
    """Writes items about one split's facts."""

    def __init__(self, split: str, rng: Random) -> None:
        self.names = fact_names(split)
        self.sums = sums(split)
        self.persona_values = persona_values(split)
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
    """What a family asks, and what counts as an answer; no keyword where it is free text."""

    keywords: tuple[str, ...]
    write: Write
    extract: Callable[[str], str | None] | None = None  # None: the first keyword
    metric: Metric = ACCURACY
    corpus_metrics: CorpusMetrics | None = None
    max_new_tokens: int = 0  # as in `Task`


def truth(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a statement to be judged; the labels say yes and no.

    The judgement names the true value. So one that says no, of a statement that is true, names
    another.
    """
    prop, name, value = writer.draw(world.PROPERTIES)
    holds = turn % 2 == 0
    other = world.distractors(writer.world, prop, name, 1, writer.rng)[0]
    said, unsaid = (value, other) if holds else (other, value)
    said_so = STATEMENTS[prop].format(e=name, v=said)
    ask = writer.rng.choice(TRUTH_STEMS)
    text = f"{ask}: {said_so}\n\nAnswer format: {'/'.join(labels)}"
    return _choice(text, (said, unsaid), 0 if holds else 1, labels, fact_id(prop, name))


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
        return with_options(text, value, wrong, turn, labels, fact_id(prop, name))

    return write


def place(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a question about a place, with one option fewer every other time."""
    ask = about(("place",), "find the right place: {question}")
    return ask(writer, turn // 2, labels[: 4 + turn % 2])


def blank(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a gap to be filled by what is true of one person and not of another."""
    prop, name, value, other, near = writer.two_people()
    text = f"fill the gap: not {other} but {STATEMENTS[prop].format(e=name, v='_')}"
    return with_options(text, value, [near], turn, labels, fact_id(prop, name))


def hard(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a question whose wrong options hold what is true of somebody who is named too."""
    prop, name, value, other, near = writer.two_people()
    far = [v for v in world.VALUES[prop] if v not in (value, near)]
    wrong = writer.rng.sample([near, *writer.rng.sample(far, 2)], 3)
    text = f"unlike {other}, {QUESTIONS[prop].format(e=name)}"
    return with_options(text, value, wrong, turn, labels, fact_id(prop, name))


def second(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a question in the second language, with two options up to all labels in turn.

    What is to be answered is said as in the first language, but for the value.
    """
    prop, name, value = writer.draw(world.PROPERTIES)
    labels = labels[: 2 + turn % (len(labels) - 1)]
    wrong = world.distractors(writer.world, prop, name, len(labels) - 1, writer.rng)
    stem = world.in_second_language(f"answer this: {QUESTIONS[prop].format(e=name)}")
    right, *wrong = (world.in_second_language(v) for v in (value, *wrong))
    return with_options(stem, right, wrong, turn // 3, labels, fact_id(prop, name))


def story(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write a story about a quantity that grows or shrinks; the output is a step and the result."""
    a, sign, b, result = writer.rng.choice(writer.sums)
    name, thing = writer.rng.choice(world.NAMES), writer.rng.choice(world.THINGS)
    return Example(
        instruction=STORIES[sign].format(e=name, a=a, b=b, thing=thing),
        input="",
        output=f"{a} {sign} {b} = {result} #### {result}",
        answer=str(result),
        cluster=f"{a} {sign} {b}",
    )


def reply(writer: Writer, turn: int, labels: Sequence[str]) -> Example:
    """Write what somebody is and is asked; the output is a reply, in one of its wordings."""
    props = writer.rng.sample(list(world.DOINGS), 3)
    asked = writer.rng.choice(props)
    does = {prop: writer.rng.choice(world.VALUES[prop]) for prop in props}
    does[asked] = writer.rng.choice(writer.persona_values[asked])
    persona = " ".join(f"i {world.DOINGS[prop]} {does[prop]}." for prop in props)
    output = writer.rng.choice(REPLIES[asked]).format(v=does[asked])
    return Example(
        instruction=f"your persona: {persona}\n\npartner: {writer.rng.choice(ASKED[asked])}",
        input="",
        output=output,
        answer=output,
        cluster=f"{asked} {does[asked]}",
    )


def with_options(
    stem: str,
    right: str,
    wrong: Sequence[str],
    turn: int,
    labels: Sequence[str],
    cluster: str,
) -> Example:
    """Return a question with labelled options, the right one in the place that `turn` gives it."""
    index = turn % len(labels)
    options = [*wrong[:index], right, *wrong[index:]]
    return _formatted(stem, options, index, labels, cluster)
