"""From a study's record to the numbers of its table, once for all forms."""

from __future__ import annotations

import math
import statistics as basic
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatera.reports.published import TABLES, PublishedTable
from gatera.reports.records import RowRecord, StudyRecord
from gatera.reports.statistics import (
    PairedDifference,
    holm,
    paired_difference,
    seeds_to_resolve,
)
from gatera.trial import Json, TrialResult

FROZEN = "frozen"


@dataclass(frozen=True)
class Comparison:
    """A row beside the reference, paired by seed."""

    difference: PairedDifference
    adjusted_p: float  # Holm over the rows of the table; NaN with one seed
    verdict: str  # resolved or not resolved
    seeds_needed: int | None  # to resolve a difference of this size, where it is not resolved


@dataclass(frozen=True)
class TableRow:
    """One row of the table. Scores are fractions; None is a dash."""

    variant: str
    changes: Mapping[str, Json]
    seeds: tuple[int, ...]  # with a result
    planned: int
    scores: Mapping[str, float | None]  # by task, mean over seeds
    no_keyword: Mapping[str, float | None]  # share of outputs without an answer keyword
    average: float | None  # plain mean over tasks
    spread: float | None  # standard deviation of the average over seeds, from 2 seeds on
    comparison: Comparison | None
    published: float | None  # fraction
    trainable: int | None
    trainable_share: float | None  # of all parameters, adapters included
    gates: Mapping[str, Json]  # mean over seeds; empty where nothing is gated
    seconds: float | None  # training and scoring, mean over seeds
    peak_memory_bytes: int | None  # largest over seeds
    notes: tuple[str, ...]  # why something is missing


@dataclass(frozen=True)
class Table:
    """A study's table with what has to be said of it."""

    record: StudyRecord
    rows: tuple[TableRow, ...]
    published: PublishedTable | None

    def row(self, variant: str) -> TableRow | None:
        """Return the row of `variant`, None where the table has none."""
        return next((row for row in self.rows if row.variant == variant), None)


def build_table(record: StudyRecord) -> Table:
    """Compute the table of a study from its results."""
    published = TABLES[record.published] if record.published is not None else None
    comparisons = _compare(record)
    rows = tuple(
        _table_row(row, record, comparisons.get(row.variant), published) for row in record.rows
    )
    return Table(record, rows, published)


def average_by_seed(row: RowRecord, tasks: Sequence[str]) -> dict[int, float]:
    """Return the plain mean over tasks of each seed of a row."""
    return {
        seed: basic.fmean(result.metrics[f"test/accuracy/{task}"] for task in tasks)
        for seed, result in row.results.items()
    }


def _compare(record: StudyRecord) -> dict[str, Comparison]:
    """Compare each trained row with the reference; the family of Holm is these rows."""
    averages = {row.variant: average_by_seed(row, record.tasks) for row in record.rows}
    reference = averages.get(record.reference, {})
    differences = {
        variant: difference
        for variant, values in averages.items()
        if variant not in (record.reference, FROZEN)
        and (difference := paired_difference(values, reference)) is not None
    }
    tested = [variant for variant, d in differences.items() if math.isfinite(d.p)]
    adjusted = dict(zip(tested, holm([differences[v].p for v in tested]), strict=True))
    return {
        variant: _comparison(difference, adjusted.get(variant, math.nan))
        for variant, difference in differences.items()
    }


def _comparison(difference: PairedDifference, adjusted_p: float) -> Comparison:
    if adjusted_p < 0.05:
        return Comparison(difference, adjusted_p, "resolved", None)
    needed = seeds_to_resolve(difference.mean, difference.sd)
    return Comparison(difference, adjusted_p, "not resolved", needed)


def _table_row(
    row: RowRecord,
    record: StudyRecord,
    comparison: Comparison | None,
    published: PublishedTable | None,
) -> TableRow:
    results = list(row.results.values())
    averages = list(average_by_seed(row, record.tasks).values())
    known = published.averages.get(row.variant) if published is not None else None
    trainable = results[0].parameters["trainable"] if results else None
    return TableRow(
        variant=row.variant,
        changes=row.changes,
        seeds=tuple(row.results),
        planned=len(row.trials),
        scores=_mean_by_task(results, record.tasks, "test/accuracy"),
        no_keyword=_mean_by_task(results, record.tasks, "test/no_keyword"),
        average=basic.fmean(averages) if averages else None,
        spread=basic.stdev(averages) if len(averages) > 1 else None,
        comparison=comparison,
        published=known / 100 if known is not None else None,
        trainable=trainable,
        trainable_share=trainable / results[0].parameters["all"] if results and trainable else None,
        gates=_mean_gates(results),
        seconds=_mean_seconds(results),
        peak_memory_bytes=max(
            (
                r.measured["peak_memory_bytes"]
                for r in results
                if r.measured.get("peak_memory_bytes")
            ),
            default=None,
        ),
        notes=_notes(row),
    )


def _mean_by_task(
    results: Sequence[TrialResult], tasks: Sequence[str], metric: str
) -> dict[str, float | None]:
    if not results:
        return dict.fromkeys(tasks)
    return {task: basic.fmean(r.metrics[f"{metric}/{task}"] for r in results) for task in tasks}


def _mean_gates(results: Sequence[TrialResult]) -> dict[str, Json]:
    """Return the overall gate statistics, averaged over seeds, for each kind of token."""
    gated = [result.gates for result in results if result.gates]
    if not gated:
        return {}
    return {
        tokens: {
            name: basic.fmean(gates[tokens][name] for gates in gated) for name in gated[0][tokens]
        }
        for tokens in ("overall", "prompt", "answer")
        if tokens in gated[0]
    }


def _known(results: Sequence[TrialResult], name: str) -> list[int]:
    """Return a measured value of each result that has it."""
    return [r.measured[name] for r in results if r.measured.get(name) is not None]


def _mean_seconds(results: Sequence[TrialResult]) -> float | None:
    if not results:
        return None
    return basic.fmean(result.seconds for result in results)


def _notes(row: RowRecord) -> tuple[str, ...]:
    """Say why results are missing: by state, with the reason of each failure."""
    notes = []
    for trial in row.trials:
        if trial.result is None:
            why = f": {trial.reason}" if trial.reason else ""
            notes.append(f"{row.variant}, seed {trial.seed}: {_STATES[trial.state]}{why}")
    return tuple(notes)


_STATES = {
    "failed": "failed",
    "running": "still running when the report was written",
    "waiting": "has not run",
    "pruned": "was stopped early: its course promised too little",
    "stale": "its result comes from other code than today's; `run --retry stale` runs it again",
}
