"""From a study's record to the numbers of its table, once for all forms."""

from __future__ import annotations

import statistics as basic
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.judging.agreement import PaperComparison, compare_with_paper
from gatera.reports.judging.comparison import Comparison, Weights, compare, median_spread
from gatera.reports.judging.diagnosis import Finding, diagnose
from gatera.reports.judging.matched import MatchedLoss, matched_losses
from gatera.reports.judging.paired import MeanInterval, PairedDifference, mean_interval
from gatera.reports.judging.signal import Signal, signal
from gatera.reports.published import PublishedTable, published_table
from gatera.reports.records import RowRecord, StudyRecord, TuningRecord
from gatera.trial import Json, TrialResult

FROZEN = "frozen"


@dataclass(frozen=True)
class TableRow:
    """One row of the table. Scores are fractions; None is a dash."""

    variant: str
    changes: Mapping[str, Json]
    seeds: tuple[int, ...]  # with a result
    planned: int
    scores: Mapping[str, float | None]  # by task, mean over seeds
    no_keyword: Mapping[str, float | None]  # share of outputs without an answer keyword
    others: Mapping[str, float | None]  # what else was measured of a task, mean over seeds
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
    scoring_seconds: float | None  # answering the test items, mean over seeds
    peak_memory_bytes: int | None  # largest over seeds
    notes: tuple[str, ...]  # why something is missing


@dataclass(frozen=True)
class Table:
    """A study's table with what has to be said of it."""

    record: StudyRecord
    rows: tuple[TableRow, ...]
    contrasts: Mapping[str, Comparison]  # by name; where there are any, they alone are tested
    published: PublishedTable | None
    paper: PaperComparison | None  # the rows beside the published ones
    signals: tuple[Signal, ...] = ()  # of each endpoint that all results have
    # by row: what it lost of pre-trained knowledge at equal accuracy, where that was followed
    matched: Mapping[str, MatchedLoss] = field(default_factory=dict)

    @property
    def tested(self) -> dict[str, Comparison]:
        """What verdicts are given on, by name: contrasts, or the rows beside the reference."""
        rows = {row.variant: row.comparison for row in self.rows if row.comparison is not None}
        return dict(self.contrasts) or rows

    @property
    def other_scores(self) -> tuple[str, ...]:
        """The measures of whole tasks beside their items' scores, "test/<metric>/<task>"."""
        return _other_scores(self.record)

    def row(self, variant: str) -> TableRow | None:
        """Return the row of `variant`, None where the table has none."""
        return next((row for row in self.rows if row.variant == variant), None)


def build_table(record: StudyRecord) -> Table:
    """Compute the table of a study from its results."""
    published = None
    if record.published is not None and ENDPOINTS[record.endpoint].is_published:
        published = published_table(record.published, record.backbone).by_score(record.endpoint)
    averages = averages_by_seed(record)
    rows_are_tested = not record.contrasts
    comparisons = compare(record, _beside_reference(record), averages, tested=rows_are_tested)
    contrasts = compare(record, record.contrasts, averages, tested=True)
    rows = tuple(
        _table_row(row, record, averages, comparisons.get(row.variant), published)
        for row in record.rows
    )
    paper = _beside_paper(record, averages, comparisons, published)
    return Table(
        record, rows, contrasts, published, paper, _signals(record), matched_losses(record)
    )


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
    return _averages(record, record.endpoint)


def _averages(record: StudyRecord, endpoint: str) -> dict[str, dict[int, float]]:
    names = [f"test/{endpoint}/{task}" for task in record.tasks]
    return {
        row.variant: {
            seed: basic.fmean(result.metrics[name] for name in names)
            for seed, result in row.results.items()
        }
        for row in record.rows
    }


def _other_scores(record: StudyRecord) -> tuple[str, ...]:
    """Return the measures of whole tasks: those that some result has, or says why it has not."""
    of_items = {*ENDPOINTS, "no_keyword"}
    found = set()
    for result in record.results:
        notes = result.parts.get("scoring", {}).get("notes", {})
        for name in (*result.metrics, *notes):
            kind, _, rest = name.partition("/")
            metric, _, task = rest.partition("/")
            if kind == "test" and task and metric not in of_items:
                found.add(name)
    return tuple(sorted(found))


def _signals(record: StudyRecord) -> tuple[Signal, ...]:
    """Return the spreads of each endpoint that was measured on every task by every trial."""
    signals = []
    for endpoint in ENDPOINTS:
        names = {f"test/{endpoint}/{task}" for task in record.tasks}
        if record.results and all(names <= result.metrics.keys() for result in record.results):
            averages = _averages(record, endpoint)
            averages.pop(FROZEN, None)
            signals.append(signal(endpoint, averages))
    return tuple(each for each in signals if each is not None)


def _beside_reference(record: StudyRecord) -> dict[str, Weights]:
    """Return what each trained row is compared as: with the reference."""
    others = (row.variant for row in record.rows if row.variant not in (record.reference, FROZEN))
    return {variant: {variant: 1.0, record.reference: -1.0} for variant in others}


def measured_spread(record: StudyRecord) -> PairedDifference | None:
    """Return the median spread that what a study tests has so far."""
    weighted = record.contrasts or _beside_reference(record)
    found = compare(record, weighted, averages_by_seed(record), tested=False)
    return median_spread(each.difference for each in found.values())


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
        others={name: _mean_metric(results, name) for name in _other_scores(record)},
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
        scoring_seconds=_mean_measured(results, "eval_seconds"),
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
    """Return the gate statistics for each kind of token and of each task, averaged over seeds."""
    gated = [result.gates for result in results if result.gates]
    if not gated:
        return {}
    means: dict[str, Json] = _mean_of_parts(gated, ("overall", "prompt", "answer"))
    means["tasks"] = {
        task: _mean_of_parts([gates["tasks"][task] for gates in gated], ("prompt", "answer"))
        for task in gated[0].get("tasks", {})
    }
    return means


def _mean_of_parts(
    gated: Sequence[Mapping[str, Json]], parts: Sequence[str]
) -> dict[str, dict[str, float]]:
    return {
        part: {name: basic.fmean(gates[part][name] for gates in gated) for name in gated[0][part]}
        for part in parts
        if part in gated[0]
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


def _mean_measured(results: Sequence[TrialResult], name: str) -> float | None:
    values = [float(r.measured[name]) for r in results if name in r.measured]
    return basic.fmean(values) if values else None


def _mean_metric(results: Sequence[TrialResult], name: str) -> float | None:
    values = [r.metrics[name] for r in results if name in r.metrics]
    return basic.fmean(values) if values else None


def _known(results: Sequence[TrialResult], name: str) -> list[int]:
    """Return a measured value of each result that has it."""
    return [r.measured[name] for r in results if r.measured.get(name) is not None]


def _mean_seconds(row: RowRecord) -> float | None:
    seconds = [trial.seconds for trial in row.trials if trial.seconds is not None]
    return basic.fmean(seconds) if seconds else None


def _other_parts(result: TrialResult) -> str:
    """Return in which other parts a trial was computed than planned; "" where in those."""
    train, scored = result.config.get("train", {}), result.config.get("eval", {})
    used = [
        ("train.accumulation", train.get("accumulation"), "training", "accumulation"),
        ("eval.batch_size", scored.get("batch_size"), "scoring", "batch_size"),
    ]
    told = [
        f"{name} {found} in place of {planned}"
        for name, planned, part, field in used
        if (found := result.parts.get(part, {}).get(field)) not in (None, planned)
    ]
    return ", ".join(told)


def _notes(row: RowRecord, comparison: Comparison | None, reference: str) -> tuple[str, ...]:
    """Say why results are missing, by state, and what that makes of the row's difference."""
    notes = []
    for trial in row.trials:
        if trial.result is None:
            why = f": {trial.reason}" if trial.reason else ""
            log = f" (its log ends: {' / '.join(trial.last_lines)})" if trial.last_lines else ""
            notes.append(f"{row.variant}, seed {trial.seed}: {_STATES[trial.state]}{why}{log}")
        elif parts := _other_parts(trial.result):
            notes.append(
                f"{row.variant}, seed {trial.seed}: computed in other parts than planned, as "
                f"where memory ran out ({parts}); its last bits may differ, nothing else"
            )
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
