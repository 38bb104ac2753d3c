"""Rows beside each other, paired by seed: differences, their intervals, and the verdicts.

What is compared is a weighted sum of rows. A row beside the reference has the weights 1 and -1; a
study's contrast has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gatera.reports.judging.bootstrap import (
    MIN_SEEDS,
    Array,
    CrossedInterval,
    clustered,
    crossed_bootstrap,
)
from gatera.reports.judging.paired import (
    McNemar,
    PairedDifference,
    holm,
    mcnemar,
    paired_difference,
    seeds_to_resolve,
)
from gatera.reports.records import RowRecord, StudyRecord

LEVEL = 0.05  # of the family of tests

Weights = Mapping[str, float]  # row -> its weight; they add up to 0
Averages = Mapping[str, Mapping[int, float]]  # row -> seed -> average


@dataclass(frozen=True)
class Comparison:
    """A weighted sum of rows, paired by seed."""

    weights: Weights
    difference: PairedDifference
    adjusted_p: float  # Holm over the family; NaN where there is no test
    verdict: str  # resolved, not resolved, or not tested: another family is
    seeds: tuple[int, ...]  # that all its rows have
    planned: int  # seeds of the row that has most
    seeds_needed: int | None = None  # to resolve such a difference, where it is not resolved
    diverged: tuple[int, ...] = ()  # seeds left out since a loss was not finite: no verdict
    crossed: CrossedInterval | None = None  # secondary: over seeds and test items
    single_runs: McNemar | None = None  # with one seed: the row's run (first) and the reference's


def compare(
    record: StudyRecord, weighted: Mapping[str, Weights], averages: Averages, *, tested: bool
) -> dict[str, Comparison]:
    """Compare rows with each other; the family of Holm is what is compared in one call.

    Args:
        record: The study's rows.
        weighted: Name -> weights, of each thing that is compared.
        averages: Of the rows.
        tested: Whether verdicts are given.

    What shares no seed, or has a row that is not there, is left out.
    """
    differences = {
        name: difference
        for name, weights in weighted.items()
        if (difference := _difference(weights, averages)) is not None
    }
    finite = [name for name, d in differences.items() if tested and math.isfinite(d.p)]
    adjusted = dict(zip(finite, holm([differences[n].p for n in finite]), strict=True))
    return {
        name: _comparison(
            record,
            weighted[name],
            difference,
            adjusted_p=adjusted.get(name, math.nan),
            family=len(finite),
            tested=tested,
        )
        for name, difference in differences.items()
    }


def _comparison(
    record: StudyRecord,
    weights: Weights,
    difference: PairedDifference,
    *,
    adjusted_p: float,
    family: int,
    tested: bool,
) -> Comparison:
    rows = {row.variant: row for row in record.rows if row.variant in weights}
    items = item_differences([(rows[name], w) for name, w in weights.items()], record.tasks)
    crossed, single_runs, needed = None, None, None
    if items is not None and difference.pairs >= MIN_SEEDS:
        # Each comparison draws alike: from a generator of its own in the same state.
        of_clusters = {
            task: clustered(table, _labels(record.clusters.get(task, {}), table.shape[1]))
            for task, table in items.items()
        }
        crossed = crossed_bootstrap(of_clusters, np.random.default_rng(0))
    elif (
        items is not None
        and record.endpoint == "accuracy"
        and difference.pairs == 1
        and sorted(weights.values()) == [-1, 1]
    ):
        single_runs = _single_runs(items)
    diverged = _diverged_seeds(rows.values())
    # The seeds that survive are no sample of all: a row that diverges often looks better for it.
    resolved = adjusted_p < LEVEL and not diverged
    if math.isfinite(adjusted_p) and not resolved and not diverged:
        needed = _seeds_needed(difference, family)
    return Comparison(
        weights,
        difference,
        adjusted_p,
        ("resolved" if resolved else "not resolved") if tested else "not tested",
        seeds=_common_seeds(rows.values()),
        planned=max(len(row.trials) for row in rows.values()),
        seeds_needed=needed,
        diverged=diverged,
        crossed=crossed,
        single_runs=single_runs,
    )


def _difference(weights: Weights, averages: Averages) -> PairedDifference | None:
    """Return the weighted sum of rows over the seeds that all have; None where there is none."""
    found = [averages.get(name, {}) for name in weights]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in found)))
    factors = list(weights.values())
    values = {
        seed: sum(w * by_seed[seed] for w, by_seed in zip(factors, found, strict=True))
        for seed in seeds
    }
    return paired_difference(values, dict.fromkeys(values, 0.0))


def _common_seeds(rows: Iterable[RowRecord]) -> tuple[int, ...]:
    return tuple(sorted(set.intersection(*(set(row.results) for row in rows))))


def _diverged_seeds(rows: Iterable[RowRecord]) -> tuple[int, ...]:
    trials = (trial for row in rows for trial in row.trials)
    return tuple(sorted({t.seed for t in trials if t.failure_kind == "not_finite"}))


def _seeds_needed(difference: PairedDifference, family: int) -> int | None:
    """Return how many seeds resolve a difference of this size at Holm's strictest step.

    More than there are: these did not.
    """
    found = seeds_to_resolve(difference.mean, difference.sd, alpha=LEVEL / family)
    return None if found is None else max(found, difference.pairs + 1)


def _single_runs(items: Mapping[str, Array]) -> McNemar:
    """Compare two runs by the items that one alone answers rightly."""
    signs = np.concatenate([table[0] for table in items.values()])
    return mcnemar((signs > 0).tolist(), (signs < 0).tolist())


def item_differences(
    rows: Sequence[tuple[RowRecord, float]], tasks: Sequence[str]
) -> dict[str, Array] | None:
    """Return, by task, the weighted sum of rows' endpoints, (seeds, items in ascending order).

    Each of `rows` comes with its weight.

    None where a seed that all have lacks items in a row, or where they answered different items.
    """
    seeds = _common_seeds([row for row, _ in rows])
    found_items = [row.items for row, _ in rows]
    if not seeds or not all(seed in found for found in found_items for seed in seeds):
        return None
    differences = {}
    for task in tasks:
        items = sorted(found_items[0][seeds[0]].get(task, {}))
        total = np.zeros((len(seeds), len(items)))
        for (_, weight), found in zip(rows, found_items, strict=True):
            by_seed = [found[seed].get(task, {}) for seed in seeds]
            if not items or any(sorted(each) != items for each in by_seed):
                return None
            values = np.array([[each[item] for item in items] for each in by_seed], dtype=float)
            total += weight * values
        differences[task] = total
    return differences


def _labels(clusters: Mapping[int, str], items: int) -> list[str]:
    """Return what each item asks about; one that stands alone has a label of its own."""
    if len(clusters) != items:
        return [str(item) for item in range(items)]
    return [clusters[item] or f"item {item}" for item in sorted(clusters)]


def median_spread(differences: Iterable[PairedDifference]) -> PairedDifference | None:
    """Return the difference whose spread is the median one; None where none has a spread."""
    known = sorted((d for d in differences if d.sd > 0), key=lambda d: d.sd)
    return known[len(known) // 2] if known else None
