"""From a study's record to the numbers of its table, once for all forms."""

from __future__ import annotations

import math
import statistics as basic
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gatera.reports.judging.agreement import PaperComparison, compare_with_paper
from gatera.reports.judging.bootstrap import MIN_SEEDS, Array, CrossedInterval, crossed_bootstrap
from gatera.reports.judging.diagnosis import Finding, diagnose
from gatera.reports.judging.paired import (
    McNemar,
    MeanInterval,
    PairedDifference,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    seeds_to_resolve,
)
from gatera.reports.published import PublishedTable, published_table
from gatera.reports.records import RowRecord, StudyRecord, TuningRecord
from gatera.trial import Json, TrialResult

FROZEN = "frozen"
LEVEL = 0.05  # of the family of tests


@dataclass(frozen=True)
class Comparison:
    """A row beside the reference, paired by seed."""

    difference: PairedDifference
    adjusted_p: float  # Holm over the rows of the table; NaN where there is no test
    verdict: str  # resolved or not resolved
    seeds: tuple[int, ...]  # that both rows have
    seeds_needed: int | None = None  # to resolve such a difference, where it is not resolved
    diverged: tuple[int, ...] = ()  # seeds left out since a loss was not finite: no verdict
    crossed: CrossedInterval | None = None  # secondary: over seeds and test items
    single_runs: McNemar | None = None  # with one seed: the row's run (first) and the reference's


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
    average_by_seed: Mapping[int, float]
    spread: float | None  # standard deviation of the average over seeds, from 2 seeds on
    comparison: Comparison | None
    published: float | None  # fraction
    trainable: int | None
    trainable_share: float | None  # of all parameters, adapters included
    gates: Mapping[str, Json]  # mean over seeds; empty where nothing is gated
    gate_histogram: tuple[float, ...]  # shares of equal bins from 0 to 1, mean over seeds
    knowledge: MeanInterval | None  # rise of the loss on held-out text by training, nats a token
    knowledge_loss: float | None  # that loss after training, mean over seeds
    tuning: TuningRecord | None
    findings: tuple[Finding, ...]  # what looks wrong
    seconds: float | None  # training and scoring, mean over seeds
    peak_memory_bytes: int | None  # largest over seeds
    notes: tuple[str, ...]  # why something is missing


@dataclass(frozen=True)
class Table:
    """A study's table with what has to be said of it."""

    record: StudyRecord
    rows: tuple[TableRow, ...]
    published: PublishedTable | None
    paper: PaperComparison | None  # the rows beside the published ones

    def row(self, variant: str) -> TableRow | None:
        """Return the row of `variant`, None where the table has none."""
        return next((row for row in self.rows if row.variant == variant), None)


def build_table(record: StudyRecord) -> Table:
    """Compute the table of a study from its results."""
    published = None
    if record.published is not None:
        published = published_table(record.published, record.backbone)
    averages = averages_by_seed(record)
    comparisons = _compare(record, averages)
    rows = tuple(
        _table_row(row, record, averages, comparisons.get(row.variant), published)
        for row in record.rows
    )
    return Table(record, rows, published, _beside_paper(record, averages, comparisons, published))


def _beside_paper(
    record: StudyRecord,
    averages: Mapping[str, Mapping[int, float]],
    comparisons: Mapping[str, Comparison],
    published: PublishedTable | None,
) -> PaperComparison | None:
    if published is None:
        return None
    return compare_with_paper(
        published,
        record,
        averages={name: by_seed for name, by_seed in averages.items() if name != FROZEN},
        differences={name: c.difference for name, c in comparisons.items()},
    )


def averages_by_seed(record: StudyRecord) -> dict[str, dict[int, float]]:
    """Return row -> seed -> the plain mean of the study's endpoint over tasks."""
    names = [f"test/{record.endpoint}/{task}" for task in record.tasks]
    return {
        row.variant: {
            seed: basic.fmean(result.metrics[name] for name in names)
            for seed, result in row.results.items()
        }
        for row in record.rows
    }


def _compare(
    record: StudyRecord, averages: Mapping[str, Mapping[int, float]]
) -> dict[str, Comparison]:
    """Compare each trained row with the reference; the family of Holm is these rows."""
    rows = {row.variant: row for row in record.rows}
    differences = _differences(record, averages)
    tested = [variant for variant, d in differences.items() if math.isfinite(d.p)]
    adjusted = dict(zip(tested, holm([differences[v].p for v in tested]), strict=True))
    return {
        variant: _comparison(
            rows[variant],
            rows[record.reference],
            record.tasks,
            difference,
            adjusted_p=adjusted.get(variant, math.nan),
            tested=len(tested),
        )
        for variant, difference in differences.items()
    }


def _comparison(
    row: RowRecord,
    reference: RowRecord,
    tasks: Sequence[str],
    difference: PairedDifference,
    *,
    adjusted_p: float,
    tested: int,
) -> Comparison:
    items = answer_differences(row, reference, tasks)
    crossed, single_runs, needed = None, None, None
    if items is not None and difference.pairs >= MIN_SEEDS:
        # Each row draws alike: from a generator of its own in the same state.
        crossed = crossed_bootstrap(items, np.random.default_rng(0))
    elif items is not None and difference.pairs == 1:
        single_runs = _single_runs(items)
    diverged = _diverged_seeds(row, reference)
    # The seeds that survive are no sample of all: a row that diverges often looks better for it.
    resolved = adjusted_p < LEVEL and not diverged
    if math.isfinite(adjusted_p) and not resolved and not diverged:
        needed = _seeds_needed(difference, tested)
    return Comparison(
        difference,
        adjusted_p,
        "resolved" if resolved else "not resolved",
        seeds=tuple(sorted(row.results.keys() & reference.results.keys())),
        seeds_needed=needed,
        diverged=diverged,
        crossed=crossed,
        single_runs=single_runs,
    )


def _diverged_seeds(row: RowRecord, reference: RowRecord) -> tuple[int, ...]:
    trials = (*row.trials, *reference.trials)
    return tuple(sorted({t.seed for t in trials if t.failure_kind == "not_finite"}))


def _seeds_needed(difference: PairedDifference, tested: int) -> int | None:
    """Return how many seeds resolve a difference of this size at Holm's strictest step.

    More than there are: these did not.
    """
    found = seeds_to_resolve(difference.mean, difference.sd, alpha=LEVEL / tested)
    return None if found is None else max(found, difference.pairs + 1)


def _differences(
    record: StudyRecord, averages: Mapping[str, Mapping[int, float]]
) -> dict[str, PairedDifference]:
    """Return the difference of each trained row to the reference, where they share a seed."""
    base = averages.get(record.reference, {})
    return {
        variant: difference
        for variant, values in averages.items()
        if variant not in (record.reference, FROZEN)
        and (difference := paired_difference(values, base)) is not None
    }


def median_spread(differences: Iterable[PairedDifference]) -> PairedDifference | None:
    """Return the difference whose spread is the median one; None where none has a spread."""
    known = sorted((d for d in differences if d.sd > 0), key=lambda d: d.sd)
    return known[len(known) // 2] if known else None


def measured_spread(record: StudyRecord) -> PairedDifference | None:
    """Return the median spread that a study's differences have so far."""
    averages = averages_by_seed(record)
    return median_spread(_differences(record, averages).values())


def _single_runs(items: Mapping[str, Array]) -> McNemar:
    """Compare two runs by the items that one alone answers rightly."""
    signs = np.concatenate([table[0] for table in items.values()])
    return mcnemar((signs > 0).tolist(), (signs < 0).tolist())


def answer_differences(
    row: RowRecord, reference: RowRecord, tasks: Sequence[str]
) -> dict[str, Array] | None:
    """Return, by task, right answers of a row minus the reference's, (seeds, items).

    None where a seed that both have lacks answers, or where the two answered different items.
    """
    seeds = sorted(row.results.keys() & reference.results.keys())
    ours, theirs = row.answers, reference.answers
    if not seeds or not all(seed in ours and seed in theirs for seed in seeds):
        return None
    differences = {}
    for task in tasks:
        items = sorted(ours[seeds[0]].get(task, {}))
        arms = [arm[seed].get(task, {}) for seed in seeds for arm in (ours, theirs)]
        if not items or any(sorted(answers) != items for answers in arms):
            return None
        right = np.array([[answers[item] for item in items] for answers in arms], dtype=float)
        differences[task] = right[0::2] - right[1::2]
    return differences


def _table_row(
    row: RowRecord,
    record: StudyRecord,
    all_averages: Mapping[str, Mapping[int, float]],
    comparison: Comparison | None,
    published: PublishedTable | None,
) -> TableRow:
    results = list(row.results.values())
    by_seed = all_averages[row.variant]
    averages = list(by_seed.values())
    gates = _mean_gates(results)
    no_keyword = _mean_by_task(results, record.tasks, "test/no_keyword")
    frozen = list(all_averages.get(FROZEN, {}).values())
    known = published.averages.get(row.variant) if published is not None else None
    trainable = results[0].parameters["trainable"] if results else None
    return TableRow(
        variant=row.variant,
        changes=row.changes,
        seeds=tuple(row.results),
        planned=len(row.trials),
        scores=_mean_by_task(results, record.tasks, f"test/{record.endpoint}"),
        no_keyword=no_keyword,
        average=basic.fmean(averages) if averages else None,
        average_by_seed=by_seed,
        spread=basic.stdev(averages) if len(averages) > 1 else None,
        comparison=comparison,
        published=known / 100 if known is not None else None,
        trainable=trainable,
        trainable_share=trainable / results[0].parameters["all"] if results and trainable else None,
        gates=gates,
        gate_histogram=_mean_histogram(results),
        knowledge=mean_interval(_knowledge_lost(results)),
        knowledge_loss=_mean_metric(results, "knowledge/loss"),
        tuning=row.tuning,
        findings=()
        if row.variant == FROZEN
        else diagnose(
            row,
            averages=by_seed,
            frozen=frozen[0] if frozen else None,
            gates=gates,
            no_keyword=no_keyword,
        ),
        seconds=_mean_seconds(row),
        peak_memory_bytes=max(_known(results, "peak_memory_bytes"), default=None),
        notes=_notes(row, comparison, record.reference),
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


def _mean_histogram(results: Sequence[TrialResult]) -> tuple[float, ...]:
    """Return the share of gates in each equal bin from 0 to 1, averaged over seeds."""
    counted = [h for result in results if (h := result.gates.get("histogram"))]
    return tuple(basic.fmean(shares) for shares in zip(*counted, strict=True))


def _knowledge_lost(results: Sequence[TrialResult]) -> list[float]:
    """Return, for each seed, by how much training raised the loss on held-out text."""
    return [
        r.metrics["knowledge/loss"] - r.metrics["knowledge/loss_before"]
        for r in results
        if "knowledge/loss_before" in r.metrics
    ]


def _mean_metric(results: Sequence[TrialResult], name: str) -> float | None:
    values = [r.metrics[name] for r in results if name in r.metrics]
    return basic.fmean(values) if values else None


def _known(results: Sequence[TrialResult], name: str) -> list[int]:
    """Return a measured value of each result that has it."""
    return [r.measured[name] for r in results if r.measured.get(name) is not None]


def _mean_seconds(row: RowRecord) -> float | None:
    seconds = [trial.seconds for trial in row.trials if trial.seconds is not None]
    return basic.fmean(seconds) if seconds else None


def _notes(row: RowRecord, comparison: Comparison | None, reference: str) -> tuple[str, ...]:
    """Say why results are missing, by state, and what that makes of the row's difference."""
    notes = []
    for trial in row.trials:
        if trial.result is None:
            why = f": {trial.reason}" if trial.reason else ""
            log = f" (its log ends: {' / '.join(trial.last_lines)})" if trial.last_lines else ""
            notes.append(f"{row.variant}, seed {trial.seed}: {_STATES[trial.state]}{why}{log}")
    if comparison is not None and set(comparison.seeds) != {t.seed for t in row.trials}:
        seeds = ", ".join(map(str, comparison.seeds))
        notes.append(
            f"{row.variant}: its difference is over seed {seeds}, which {reference} has too; the "
            "averages are over all seeds that each row has"
        )
    if comparison is not None and comparison.diverged:
        seeds = ", ".join(map(str, comparison.diverged))
        notes.append(
            f"{row.variant}: no verdict, since seed {seeds} diverged in it or in {reference}: the "
            "seeds that did not are no fair sample"
        )
    if row.confounds:
        notes.append(
            f"{row.variant} differs from the reference in {', '.join(row.confounds)} too, as its "
            "study declares: its difference is not that of the other change alone"
        )
    return tuple(notes)


_STATES = {
    "failed": "failed",
    "running": "still running when the report was written",
    "waiting": "has not run",
    "pruned": "was stopped early: its course promised too little",
    "stale": "its result comes from other code than today's; `run --retry stale` runs it again",
}
