"""What the rows of a study answered, item by item, and where two of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gatera.reports.records import StudyRecord


@dataclass(frozen=True)
class AskedItem:
    """One test item."""

    task: str
    index: int  # in its test set, from 0
    answer: str  # the right one
    prompt: str | None  # what a model read; None where the data is not at hand


@dataclass(frozen=True)
class Answer:
    """What one trained model made of an item."""

    output: str
    extracted: str | None  # the answer in it; None where there is none
    score: float  # from 0 to 1; of tasks with right and wrong answers 1 or 0


@dataclass(frozen=True)
class Answers:
    """All answers of a study."""

    items: tuple[AskedItem, ...]
    # variant -> seed -> in the order of `items`; None where an item was not asked
    by_variant: Mapping[str, Mapping[int, Sequence[Answer | None]]]
    without_prompts: str = ""  # why there are none


@dataclass(frozen=True)
class Flips:
    """In how many runs, paired by seed, another row's answer is worth less or more, by item."""

    lost: np.ndarray  # (items,): runs in which the second row's score is lower than the first's
    won: np.ndarray  # (items,): in which it is higher

    @property
    def totals(self) -> tuple[int, int, int]:
        """Items on which some pair of runs differs, pairs of runs lost, and won, in all."""
        return int(np.sum(self.lost + self.won > 0)), int(self.lost.sum()), int(self.won.sum())


def scores_by_seed(answers: Answers, record: StudyRecord) -> dict[str, dict[int, np.ndarray]]:
    """Return variant -> seed -> scores (items,), NaN where an item was not asked.

    The untrained backbone is one trial, whatever the seed: it stands beside every seed of others.
    """
    found = {
        variant: {
            seed: np.array([np.nan if each is None else each.score for each in run])
            for seed, run in by_seed.items()
        }
        for variant, by_seed in answers.by_variant.items()
    }
    seeds = sorted({seed for row in record.rows for seed in row.results})
    for row in record.rows:
        if any(result.is_frozen for result in row.results.values()):
            lone = next(iter(found[row.variant].values()))
            found[row.variant] = dict.fromkeys(seeds, lone)
    return found


def flips(first: Mapping[int, np.ndarray], second: Mapping[int, np.ndarray]) -> Flips:
    """Return where the second row's answers are worth less or more than the first's.

    Args:
        first: Seed -> scores (items,) of one row.
        second: The same of another; seeds that only one of them has are left out.
    """
    seeds = [seed for seed in first if seed in second]
    size = len(next(iter(first.values()), ()))
    lost, won = np.zeros(size, dtype=int), np.zeros(size, dtype=int)
    for seed in seeds:
        lost += second[seed] < first[seed]  # neither holds where one is missing
        won += second[seed] > first[seed]
    return Flips(lost, won)
