"""What a task is: where its items are, how an answer is read, and what it is worth.

Every task is one `Task`, the real benchmarks and those of the embedded world alike. What the items
of a split are is its `data`'s; what a model makes of them is `gatera.training`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gatera.tasks.example import Example

SPLITS = ("train", "validation", "test")


class Data(Protocol):
    """The items of a task."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Which of `SPLITS` there are."""
        ...

    def load(self, split: str, root: Path | None) -> list[Example]:
        """Return a split's items, always in the same order.

        Args:
            split: One of `splits`.
            root: The data root; None where there is none.

        Raises:
            InputError: the data is missing or malformed.
        """
        ...

    def fingerprint(self, split: str, root: Path | None) -> str:
        """Return the SHA-256 of what `load` reads, in hex.

        Raises:
            InputError: as `load`, but malformed records may go unseen.
        """
        ...


@dataclass(frozen=True)
class Metric:
    """What one item's answer is worth, from 0 to 1; a task's score is the mean over its items."""

    name: str  # measured as "test/<name>/<task>"
    of_item: Callable[[str, str | None, Example], float]  # of (output, what was read, the item)
    has_right_answers: bool  # whether an answer is right (1) or wrong (0), and nothing between


def _is_right(output: str, extracted: str | None, example: Example) -> float:
    return float(extracted == example.answer.casefold())


ACCURACY = Metric("accuracy", _is_right, has_right_answers=True)


@dataclass(frozen=True)
class CorpusScore:
    """What all outputs of a task are worth together, by one metric."""

    value: float | None  # a fraction; None: it cannot be computed here, a dash in a report
    note: str = ""  # for the report: why it cannot, or how it was (a library's signature)


# Returns name -> score of all outputs of a task together, beside the right texts, in their order.
CorpusMetrics = Callable[[Sequence[str], Sequence[str]], Mapping[str, CorpusScore]]


@dataclass(frozen=True)
class Task:
    """A task, without its items."""

    title: str  # one line
    data: Data
    extract: Callable[[str], str | None]  # reads the answer out of a text; None: there is none
    metric: Metric = ACCURACY
    corpus_metrics: CorpusMetrics | None = None
    keywords: tuple[str, ...] = ()  # words that count as answers; () where any text does
    chance: float | None = None  # accuracy of guessing among the choices that items usually have
    max_new_tokens: int = 0  # that an answer may have, where more than `eval.max_new_tokens`

    @property
    def is_scored(self) -> bool:
        """Whether it can be tested on, and not only trained on."""
        return "test" in self.data.splits
