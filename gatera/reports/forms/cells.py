"""Tables of a report: headers and cells, the same for every form that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatera.reports.forms.words import (
    DASH,
    average_cell,
    crossed_cell,
    difference_cell,
    memory_cell,
    nats_cell,
    p_value,
    pairs_cell,
    percent,
    points,
    printed_share,
    seconds_cell,
    seeds_cell,
    setting_cell,
    share_cell,
    verdict_cell,
)
from gatera.reports.judging.agreement import PaperRow
from gatera.reports.records import TuningRecord
from gatera.reports.tables import Table, TableRow


@dataclass(frozen=True)
class Cells:
    """A table of words; the first column names the row."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]


def compact_cells(table: Table) -> Cells:
    """Return the main table, narrow enough to be read as text and to be pasted into a paper."""
    reference, tested = table.record.reference, not table.contrasts
    header = [
        "variant",
        "seeds",
        "average",
        f"Δ to {reference} [95 %]",
        *(["verdict"] if tested else []),
        "trainable",
        *(["published"] if table.published else []),
    ]
    lines = [
        [
            f"{row.variant} (reference)" if row.variant == reference else row.variant,
            seeds_cell(row),
            average_cell(row),
            difference_cell(row.comparison),
            *([verdict_cell(row.comparison)] if tested else []),
            _trained_share(row),
            *([percent(row.published)] if table.published else []),
        ]
        for row in table.rows
    ]
    return Cells(header, lines)


def _trained_share(row: TableRow) -> str:
    return share_cell(0.0 if row.trainable == 0 else row.trainable_share)


def contrast_cells(table: Table) -> Cells:
    """Return the contrasts with their verdicts."""
    lines = [
        [name, pairs_cell(each), difference_cell(each), verdict_cell(each)]
        for name, each in table.contrasts.items()
    ]
    return Cells(["contrast", "seeds", "Δ [95 %]", "verdict"], lines)


def score_cells(table: Table) -> Cells:
    """Return the rows' scores by task."""
    tasks = table.record.tasks
    lines = [[row.variant, *(percent(row.scores[task]) for task in tasks)] for row in table.rows]
    return Cells(["variant", *tasks], lines)


def verdict_cells(table: Table) -> Cells:
    """Return what each verdict rests on, and what would resolve what is not resolved."""
    tested = table.tested
    crossed = any(each.crossed for each in tested.values())
    single = any(each.single_runs for each in tested.values())
    header = [
        "contrast" if table.contrasts else "variant",
        *(["rows"] if table.contrasts else []),
        "seeds",
        "Δ [95 %]",
        *(["bootstrap [95 %]"] if crossed else []),
        "p",
        "p, Holm",
        "seeds to resolve",
        *(["p of two runs, McNemar"] if single else []),
    ]
    lines = [
        [
            name,
            *([_weighted(each.weights)] if table.contrasts else []),
            pairs_cell(each),
            difference_cell(each),
            *([crossed_cell(each)] if crossed else []),
            _p(each.difference.p),
            _p(each.adjusted_p),
            DASH if each.seeds_needed is None else f"about {each.seeds_needed:,}",
            *([DASH if each.single_runs is None else _p(each.single_runs.p)] if single else []),
        ]
        for name, each in tested.items()
    ]
    return Cells(header, lines)


def _p(value: float) -> str:
    return p_value(value).removeprefix("= ") if math.isfinite(value) else DASH


def _weighted(weights: Mapping[str, float]) -> str:
    """Return a weighted sum of rows, such as gated_lora - lora."""
    parts: list[str] = []
    for name, weight in weights.items():
        size = "" if abs(weight) == 1 else f"{abs(weight):g} "
        sign = "- " if weight < 0 else "+ " if parts else ""
        parts.append(f"{sign}{size}{name}")
    return " ".join(parts)


def cost_cells(table: Table, *, measured: bool) -> Cells:
    """Return what rows train, lose of pre-trained knowledge, and, `measured`, take."""
    knowledge = any(row.knowledge_loss is not None for row in table.rows)
    header = [
        "variant",
        "trainable parameters",
        *(["held-out loss", "its change [95 %]"] if knowledge else []),
        *(["time", "of it scoring", "peak memory"] if measured else []),
        "diagnosis",
    ]
    lines = [
        [
            row.variant,
            DASH if row.trainable is None else f"{row.trainable:,}",
            *([_loss(row.knowledge_loss), nats_cell(row.knowledge)] if knowledge else []),
            *(
                [
                    seconds_cell(row.seconds),
                    seconds_cell(row.scoring_seconds),
                    memory_cell(row.peak_memory_bytes),
                ]
                if measured
                else []
            ),
            ", ".join(dict.fromkeys(finding.kind for finding in row.findings)) or DASH,
        ]
        for row in table.rows
    ]
    return Cells(header, lines)


def _loss(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def gate_cells(table: Table) -> Cells:
    """Return the gates' statistics of the gated rows; with hard gates the share skipped too."""
    header = ["variant", "mean", "below 0.1", "above 0.9", "entropy", "prompt mean", "answer mean"]
    hard = any("share_skipped" in row.gates["overall"] for row in table.rows if row.gates)
    header += ["skipped"] * hard
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
            nats_cell(each.difference),
            f"{each.verdict} (p {p_value(each.adjusted_p)})"
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
                f"{name} {setting_cell(low)} to {setting_cell(high)}"
                for name, (low, high) in row.tuning.searched.items()
            )
            or DASH,
            ", ".join(f"{name} = {setting_cell(v)}" for name, v in row.tuning.chosen.items())
            or DASH,
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
                difference_cell(row.comparison),
                _inside(beside),
                beside.verdict or DASH,
                printed_share(beside.published_trainable),
                share_cell(row.trainable_share),
            ]
        )
    return Cells(header, lines)


def _gate_mean(gates: Mapping[str, float] | None) -> str:
    return DASH if gates is None else f"{gates['mean']:.3f}"


def _inside(row: PaperRow) -> str:
    return DASH if row.step_inside is None else ("yes" if row.step_inside else "no")
