"""How much pre-trained knowledge is lost at equal accuracy: rows beside the reference, by seed.

A row that learned more may have forgotten more for it. So the losses on held-out text are compared
where both runs of a pair are equally good: at the highest validation accuracy that both reach.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatera.reports.judging.comparison import LEVEL
from gatera.reports.judging.paired import PairedDifference, holm, paired_difference
from gatera.reports.records import RowRecord, StudyRecord, TrialRecord

Points = Sequence[tuple[int, float]]  # (optimizer step, value)


@dataclass(frozen=True)
class MatchedLoss:
    """A row's loss on held-out text minus the reference's, where both are equally accurate."""

    accuracy: float  # at which they are compared, mean over seeds
    difference: PairedDifference  # nats a token
    adjusted_p: float  # Holm over the rows; NaN where there is no test

    @property
    def verdict(self) -> str:
        """Whether the difference is resolved."""
        return "resolved" if self.adjusted_p < LEVEL else "not resolved"


def loss_at(accuracy: Points, loss: Points, level: float) -> float | None:
    """Return the loss of a run where its accuracy first reaches `level`; None where it never does.

    Between two validations both are taken to change linearly. A run that is above `level` at its
    first validation has the loss that it had then.

    Args:
        accuracy: The run's course on the validation items.
        loss: Its course on held-out text; steps that have no accuracy count for nothing.
        level: The accuracy.
    """
    losses = dict(loss)
    course = [(right, losses[step]) for step, right in accuracy if step in losses]
    if not course:
        return None
    if course[0][0] >= level:
        return course[0][1]
    for (before, loss_before), (after, loss_after) in itertools.pairwise(course):
        if after >= level:
            share = (level - before) / (after - before)
            return loss_before + share * (loss_after - loss_before)
    return None


def matched_losses(record: StudyRecord) -> dict[str, MatchedLoss]:
    """Return what each row lost beside the reference; none where the loss was not followed."""
    reference = next((row for row in record.rows if row.variant == record.reference), None)
    if reference is None:
        return {}
    found = {
        row.variant: matched
        for row in record.rows
        if row.variant != record.reference and (matched := _matched(row, reference)) is not None
    }
    finite = [name for name, (_, d) in found.items() if math.isfinite(d.p)]
    adjusted = dict(zip(finite, holm([found[name][1].p for name in finite]), strict=True))
    return {
        name: MatchedLoss(accuracy, difference, adjusted.get(name, math.nan))
        for name, (accuracy, difference) in found.items()
    }


def _matched(row: RowRecord, reference: RowRecord) -> tuple[float, PairedDifference] | None:
    """Return the mean accuracy at which two rows are compared, and the paired difference."""
    ours, theirs = _followed(row), _followed(reference)
    losses: dict[int, float] = {}
    others: dict[int, float] = {}
    levels = []
    for seed in ours.keys() & theirs.keys():
        pair = (ours[seed].curves, theirs[seed].curves)
        level = min(max(right for _, right in curves.accuracy) for curves in pair)
        one, other = (loss_at(curves.accuracy, curves.knowledge, level) for curves in pair)
        if one is not None and other is not None:
            losses[seed], others[seed] = one, other
            levels.append(level)
    difference = paired_difference(losses, others)
    return None if difference is None else (sum(levels) / len(levels), difference)


def _followed(row: RowRecord) -> Mapping[int, TrialRecord]:
    """Return the finished trials whose loss on held-out text was followed, by seed."""
    return {
        trial.seed: trial
        for trial in row.trials
        if trial.result is not None and trial.curves.knowledge and trial.curves.accuracy
    }
