"""Eight task families about the embedded world, in the benchmarks' instruction format.

Holds the questions, their splits and nothing else: prompts, decoding and extraction are those of
the real benchmarks. A fact of the world belongs to one split, in every family alike, so a test
question can be answered from pre-training only, not from the adaptation data. The wordings differ
from those of pre-training. The label stands behind its option, and the output names the option
before the label: a model of this size can follow that order.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from random import Random

from gatera.backbones import world
from gatera.errors import InputError
from gatera.tasks.example import Example

FAMILIES: dict[str, tuple[str, ...]] = {
    "world_truth": ("true", "false"),
    "world_use": world.LABELS["solution"],
    "world_kin": world.LABELS["answer"][:3],
    "world_ending": world.LABELS["ending"],
    "world_blank": world.LABELS["option"],
    "world_easy": world.LABELS["answer"][:4],
    "world_hard": world.LABELS["answer"][:4],
    "world_place": world.LABELS["answer"],
}
SIZES = {"train": 300, "validation": 15, "test": 96}  # items of one family
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


class _Writer:
    """Writes items about one split's facts; `turn` counts them, to balance the answers."""

    def __init__(self, split: str, rng: Random) -> None:
        self.names = fact_names(split)
        self.rng = rng
        self.world = world.facts()

    def draw(self, props: Sequence[str]) -> tuple[str, str, str]:
        prop = self.rng.choice(props)
        name = self.rng.choice(self.names[prop])
        return prop, name, self.world[prop][name]

    def options(
        self, stem: str, right: str, wrong: Sequence[str], turn: int, labels: Sequence[str]
    ) -> Example:
        index = turn % len(labels)
        options = [*wrong[:index], right, *wrong[index:]]
        return _formatted(stem, options, index, labels)

    def truth(self, turn: int) -> Example:
        prop, name, value = self.draw(world.PROPERTIES)
        holds = turn % 2 == 0
        said = value if holds else world.distractors(self.world, prop, name, 1, self.rng)[0]
        said_so = STATEMENTS[prop].format(e=name, v=said)
        ask = self.rng.choice(TRUTH_STEMS)
        text = f"{ask}: {said_so}\n\nAnswer format: true/false"
        return _example(text, value, "true" if holds else "false")

    def about(self, props: Sequence[str], stem: str, turn: int, labels: Sequence[str]) -> Example:
        prop, name, value = self.draw(props)
        wrong = world.distractors(self.world, prop, name, len(labels) - 1, self.rng)
        text = stem.format(
            question=QUESTIONS[prop].format(e=name),
            cut=STATEMENTS[prop].format(e=name, v="..."),
            e=name,
        )
        return self.options(text, value, wrong, turn, labels)

    def two_people(self) -> tuple[str, str, str, str, str]:
        """Draw (property, name, value, other name, its different value)."""
        prop, name, value = self.draw(("food", "colour", "place", "tool"))
        others = [n for n in self.names[prop] if self.world[prop][n] != value]
        other = self.rng.choice(others)
        return prop, name, value, other, self.world[prop][other]

    def blank(self, turn: int) -> Example:
        prop, name, value, other, near = self.two_people()
        text = f"fill the gap: not {other} but {STATEMENTS[prop].format(e=name, v='_')}"
        return self.options(text, value, [near], turn, FAMILIES["world_blank"])

    def hard(self, turn: int) -> Example:
        prop, name, value, other, near = self.two_people()
        far = [v for v in world.VALUES[prop] if v not in (value, near)]
        wrong = self.rng.sample([near, *self.rng.sample(far, 2)], 3)
        text = f"unlike {other}, {QUESTIONS[prop].format(e=name)}"
        return self.options(text, value, wrong, turn, FAMILIES["world_hard"])

    def place(self, turn: int) -> Example:
        labels = FAMILIES["world_place"][: 4 + turn % 2]
        return self.about(("place",), "find the right place: {question}", turn // 2, labels)


def _writers(writer: _Writer) -> dict[str, Callable[[int], Example]]:
    def plain(task: str, props: tuple[str, ...], stem: str) -> Callable[[int], Example]:
        return lambda turn: writer.about(props, stem, turn, FAMILIES[task])

    return {
        "world_truth": writer.truth,
        "world_use": plain("world_use", ("tool",), "{e} has a job to get done. {question}"),
        "world_kin": plain("world_kin", ("cousin",), "answer the question: {question}"),
        "world_ending": plain("world_ending", ("food", "colour"), "finish the sentence: {cut}"),
        "world_blank": writer.blank,
        "world_easy": plain("world_easy", ("food", "colour", "tool"), "answer this: {question}"),
        "world_hard": writer.hard,
        "world_place": writer.place,
    }


@cache
def _items(task: str, split: str) -> tuple[Example, ...]:
    rng = Random(f"{world.WORLD_SEED} {task} {split}")
    write = _writers(_Writer(split, rng))[task]
    items: dict[str, Example] = {}
    while len(items) < SIZES[split]:
        item = write(len(items))
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


def held_out_sentences(count: int = 200) -> list[str]:
    """Return texts of the world that pre-training did not see, for a study of kept knowledge.

    Each states three facts in the wordings of pre-training. The facts were seen, their combination
    was not: they come from a generator of their own, out of some 5e8 combinations.
    """
    source = world.TextSource(Random("held out"))
    return [source.statements().replace(world.MARK, "") for _ in range(count)]


def fingerprint(task: str, split: str) -> str:
    """Return the SHA-256 of what `load` returns."""
    rows = [[e.instruction, e.input, e.output, e.answer] for e in load(task, split)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
