"""Tables as words: headers and cells, the same for every form that people read.

Scores are in percent, differences in percentage points; a number that is missing is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatera.reports.judging.agreement import PaperRow
from gatera.reports.judging.comparison import Comparison
from gatera.reports.judging.paired import MeanInterval, PairedDifference
from gatera.reports.records import TuningRecord
from gatera.reports.tables import Table, TableRow
from gatera.trial import Json

DASH = "—"


@dataclass(frozen=True)
class Cells:
    """A table of words; the first column names the row."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]


def accuracy_cells(table: Table, *, measured: bool) -> Cells:
    """Return the main table; a column that no row has a number for is left out.

    Args:
        table: What is reported.
        measured: Whether to show what a clock or a host says.
    """
    record = table.record
    crossed = any(row.comparison and row.comparison.crossed for row in table.rows)
    knowledge = any(row.knowledge for row in table.rows)
    header = [
        "variant",
        "seeds",
        *record.tasks,
        "average",
        f"Δ to {record.reference} [95 %]",
        *(["secondary: bootstrap [95 %]"] if crossed else []),
        "verdict",
        "trainable",
        *([f"published ({table.published.model})"] if table.published else []),
        *(["held-out loss, change [95 %]"] if knowledge else []),
        *(["time", "peak memory"] if measured else []),
        "diagnosis",
    ]
    lines = []
    for row in table.rows:
        name = f"{row.variant} (reference)" if row.variant == record.reference else row.variant
        line = [
            name,
            seeds_cell(row),
            *(percent(row.scores[task]) for task in record.tasks),
            average_cell(row),
            difference_cell(row),
            *([_crossed(row.comparison)] if crossed else []),
            _verdict(row.comparison),
            _trainable(row),
            *([percent(row.published)] if table.published else []),
            *([_knowledge(row.knowledge)] if knowledge else []),
            *([_seconds(row.seconds), _memory(row.peak_memory_bytes)] if measured else []),
            ", ".join(dict.fromkeys(finding.kind for finding in row.findings)) or DASH,
        ]
        lines.append(line)
    return Cells(header, lines)


def contrast_cells(table: Table) -> Cells:
    """Return the contrasts with their verdicts."""
    crossed = any(each.crossed for each in table.contrasts.values())
    header = ["contrast", "rows", "seeds", "Δ [95 %]"]
    header += ["secondary: bootstrap [95 %]"] if crossed else []
    lines = [
        [
            name,
            _weighted(each.weights),
            str(each.difference.pairs),
            interval_cell(each),
            *([_crossed(each)] if crossed else []),
            _verdict(each),
        ]
        for name, each in table.contrasts.items()
    ]
    return Cells([*header, "verdict"], lines)


def _weighted(weights: Mapping[str, float]) -> str:
    """Return a weighted sum of rows, such as gated_lora - lora."""
    parts: list[str] = []
    for name, weight in weights.items():
        size = "" if abs(weight) == 1 else f"{abs(weight):g} "
        sign = "- " if weight < 0 else "+ " if parts else ""
        parts.append(f"{sign}{size}{name}")
    return " ".join(parts)


def gate_cells(table: Table, *, measured: bool) -> Cells:
    """Return the gates' statistics of the gated rows; with hard gates what they skip and save."""
    header = ["variant", "mean", "below 0.1", "above 0.9", "entropy", "prompt mean", "answer mean"]
    hard = any("share_skipped" in row.gates["overall"] for row in table.rows if row.gates)
    timed = hard and measured
    header += ["skipped"] * hard + ["scoring time"] * timed
    lines = []
    for row in table.rows:
        if row.gates:
            every = row.gates["overall"]
            lines.append(
                [
                    row.variant,
                    f"{every['mean']:.3f}",
                    percent(every["share_below_0.1"]),
                    percent(every["share_above_0.9"]),
                    f"{every['entropy']:.3f}",
                    *(_gate_mean(row.gates.get(tokens)) for tokens in ("prompt", "answer")),
                    *([percent(every.get("share_skipped"))] if hard else []),
                    *([_seconds(row.scoring_seconds)] if timed else []),
                ]
            )
    return Cells(header, lines)


def task_gate_cells(table: Table) -> Cells | None:
    """Return the gates' means by task, on the prompt and on the answer; None for a lone task."""
    tasks = table.record.tasks
    rows = [row for row in table.rows if row.gates.get("tasks")]
    if not rows or len(tasks) < 2:
        return None
    lines = [
        [row.variant, part, *(_gate_mean(row.gates["tasks"][task].get(part)) for task in tasks)]
        for row in rows
        for part in ("prompt", "answer")
    ]
    return Cells(["variant", "tokens of the", *tasks], lines)


def matched_cells(table: Table) -> Cells | None:
    """Return what each row lost of pre-trained knowledge at equal accuracy; None where unknown."""
    header = [
        "variant",
        "seeds",
        "validation accuracy",
        f"held-out loss, Δ to {table.record.reference} [95 %]",
        "verdict",
    ]
    lines = [
        [
            name,
            str(each.difference.pairs),
            percent(each.accuracy),
            _knowledge(each.difference),
            f"{each.verdict} (p {_p_value(each.adjusted_p)})"
            if math.isfinite(each.adjusted_p)
            else "no test",
        ]
        for name, each in table.matched.items()
    ]
    return Cells(header, lines) if lines else None


def other_cells(table: Table) -> Cells | None:
    """Return what else the outputs of a task are worth together; None where nothing is."""
    names = table.other_scores
    if not names:
        return None
    lines = [
        [row.variant, *(percent(row.others.get(name)) for name in names)] for row in table.rows
    ]
    return Cells(["variant", *(_said_of_task(name) for name in names)], lines)


def _said_of_task(name: str) -> str:
    """Return "<metric>, <task>" of a measure called "test/<metric>/<task>"."""
    _, metric, task = name.split("/")
    return f"{metric}, {task}"


def signal_cells(table: Table) -> Cells | None:
    """Return how well each endpoint tells the rows apart; None where nothing says."""
    header = ["endpoint", "verdicts rest on it", "between rows", "within a row", "ratio"]
    lines = [
        [
            each.endpoint,
            "yes" if each.endpoint == table.record.endpoint else "no",
            f"{100 * each.between:.2f}",
            f"{100 * each.within:.2f}",
            DASH if each.ratio is None else f"{each.ratio:.2f}",
        ]
        for each in table.signals
    ]
    return Cells(header, lines) if lines else None


def tuning_cells(table: Table) -> Cells:
    """Return budget and choice of each tuned row."""
    header = ["variant", "tuning trials", "steps a trial", "searched", "chosen", "edges hit"]
    lines = [
        [
            row.variant,
            _budget(row.tuning),
            "as its seeds" if row.tuning.steps is None else str(row.tuning.steps),
            ", ".join(
                f"{name} {_value(low)} to {_value(high)}"
                for name, (low, high) in row.tuning.searched.items()
            )
            or DASH,
            ", ".join(f"{name} = {_value(v)}" for name, v in row.tuning.chosen.items()) or DASH,
            ", ".join(row.tuning.edges) or DASH,
        ]
        for row in table.rows
        if row.tuning is not None
    ]
    return Cells(header, lines)


def _budget(tuning: TuningRecord) -> str:
    """Return the number of tuning trials, and how many of them did not run to their end."""
    parts = [(tuning.pruned, "pruned"), (tuning.diverged, "diverged")]
    cut = ", ".join(f"{count} {how}" for count, how in parts if count)
    trials = f"{tuning.trials} × {tuning.seeds} seeds" if tuning.seeds > 1 else str(tuning.trials)
    return f"{trials} ({cut})" if cut else trials


def paper_cells(table: Table) -> Cells:
    """Return the rows beside the published ones."""
    assert table.paper is not None
    assert table.published is not None
    reference = table.record.reference
    header = [
        "variant",
        f"published ({table.published.model})",
        "measured",
        "difference",
        f"published step to {reference}",
        f"measured step to {reference} [95 %]",
        "published step in our interval",
        "verdict",
        "trainable, published",
        "trainable, ours",
    ]
    lines = []
    for beside in table.paper.rows:
        row = table.row(beside.variant)
        assert row is not None
        lines.append(
            [
                beside.variant,
                percent(beside.published),
                percent(beside.measured),
                points(beside.difference),
                points(beside.step),
                difference_cell(row),
                _inside(beside),
                beside.verdict or DASH,
                _printed_share(beside.published_trainable),
                _share(row.trainable_share),
            ]
        )
    return Cells(header, lines)


def percent(value: float | None) -> str:
    """Return a fraction in percent, two decimals."""
    return DASH if value is None else f"{100 * value:.2f}"


def points(value: float | None) -> str:
    """Return a difference of fractions in percentage points, signed."""
    return DASH if value is None else f"{100 * value:+.2f}"


def seeds_cell(row: TableRow) -> str:
    """Return the number of seeds, and of how many where some are missing."""
    have = len(row.seeds)
    return f"{have}" if have == row.planned else f"{have}/{row.planned}"


def average_cell(row: TableRow) -> str:
    """Return the average with its standard deviation over seeds."""
    spread = f" ± {100 * row.spread:.2f}" if row.spread is not None else ""
    return percent(row.average) + spread


def difference_cell(row: TableRow) -> str:
    """Return the paired difference with its interval, and its seeds where some are missing."""
    return DASH if row.comparison is None else interval_cell(row.comparison)


def interval_cell(comparison: Comparison) -> str:
    """Return a paired difference with its interval, and its seeds where some are missing."""
    d = comparison.difference
    few = f" ({d.pairs} of {comparison.planned} seeds)" if d.pairs < comparison.planned else ""
    if not math.isfinite(d.low):
        return f"{100 * d.mean:+.2f} [{DASH}]{few}"
    return f"{100 * d.mean:+.2f} [{100 * d.low:+.2f}, {100 * d.high:+.2f}]{few}"


def _crossed(comparison: Comparison | None) -> str:
    crossed = comparison.crossed if comparison is not None else None
    if crossed is None or not math.isfinite(crossed.low + crossed.high):
        return DASH
    return f"[{100 * crossed.low:+.2f}, {100 * crossed.high:+.2f}]"


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return DASH
    if comparison.verdict == "not tested":
        return DASH
    if comparison.diverged:
        return "none: seeds diverged"
    if comparison.difference.sd == 0:
        return "no spread among seeds: no test"
    if not math.isfinite(comparison.adjusted_p):
        runs = comparison.single_runs
        items = f" over seeds; these two runs: McNemar p {_p_value(runs.p)}" if runs else ""
        return f"one seed: no test{items}"
    if comparison.verdict == "resolved":
        return f"resolved (p {_p_value(comparison.adjusted_p)})"
    needed = comparison.seeds_needed
    more = f"; about {needed} seeds would" if needed is not None else ""
    return f"not resolved (p {_p_value(comparison.adjusted_p)}{more})"


def _p_value(p: float) -> str:
    """Return a p-value to three decimals; a smaller one is said to be below, never zero."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _trainable(row: TableRow) -> str:
    if row.trainable is None:
        return DASH
    share = f" ({_share(row.trainable_share)})" if row.trainable_share else ""
    return f"{row.trainable:,}{share}"


def _share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.4f} %"


def _printed_share(value: float | None) -> str:
    """Return a published share with the digits that were published."""
    return DASH if value is None else f"{100 * value:.6g} %"


def _knowledge(lost: MeanInterval | PairedDifference | None) -> str:
    if lost is None:
        return DASH
    if not math.isfinite(lost.low):
        return f"{lost.mean:+.3f} [{DASH}]"
    return f"{lost.mean:+.3f} [{lost.low:+.3f}, {lost.high:+.3f}]"


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f} s"


def _memory(value: int | None) -> str:
    return DASH if value is None else f"{value / 2**20:.0f} MiB"


def _gate_mean(gates: Mapping[str, float] | None) -> str:
    return DASH if gates is None else f"{gates['mean']:.3f}"


def _inside(row: PaperRow) -> str:
    return DASH if row.step_inside is None else ("yes" if row.step_inside else "no")


def _value(value: Json) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
