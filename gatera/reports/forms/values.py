"""A table for machines: JSON rows and CSV, with unrounded fractions and no list in a cell."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

from gatera.reports.endpoints import LOG_PROBABILITY
from gatera.reports.judging.agreement import PaperComparison
from gatera.reports.judging.comparison import Comparison
from gatera.reports.judging.paired import MeanInterval
from gatera.reports.records import TrialRecord, TuningRecord
from gatera.reports.tables import Table, TableRow
from gatera.trial import Json, TrialResult


def order_values(table: Table) -> dict[str, Json] | None:
    """Return how far the rows stand in the published order; None where nothing is published."""
    order = table.paper.order if table.paper is not None else None
    if order is None:
        return None
    values = dataclasses.asdict(order)
    return values | {"low": _finite(order.low), "high": _finite(order.high)}


def contrast_values(table: Table) -> dict[str, Json]:
    """Return the contrasts by name: rows with their weights, and the difference."""
    return {
        name: {"rows": dict(each.weights), **(_difference(each) or {})}
        for name, each in table.contrasts.items()
    }


def matched_values(table: Table) -> dict[str, Json]:
    """Return by row what it lost of pre-trained knowledge at equal accuracy, in nats a token."""
    return {
        name: {
            "validation_accuracy": each.accuracy,
            "mean": each.difference.mean,
            "low": _finite(each.difference.low),
            "high": _finite(each.difference.high),
            "adjusted_p": _finite(each.adjusted_p),
            "pairs": each.difference.pairs,
        }
        for name, each in table.matched.items()
    }


def csv_text(table: Table) -> str:
    """Return the compact table as CSV; an empty cell is a missing number, a dash elsewhere."""
    return _as_csv(compact_rows(table))


def trials_csv_text(table: Table, *, measured: bool = True) -> str:
    """Return the trials as CSV, a line each."""
    return _as_csv(trial_rows(table, measured=measured))


def _as_csv(rows: Sequence[Mapping[str, Json]]) -> str:
    """Return rows as CSV; a row need not have the cells that others have."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def compact_rows(table: Table) -> list[dict[str, Json]]:
    """Return the compact table's numbers: a row each, under names that are columns of the CSV."""
    return [
        {
            **{name: values[name] for name in ("variant", "seeds", "average", "average_sd")},
            **{
                column: (values["difference"] or {}).get(name)
                for column, name in _OF_DIFFERENCE.items()
            },
            **{n: values[n] for n in ("trainable_parameters", "trainable_share", "published")},
        }
        for values in json_rows(table, measured=False)
    ]


_OF_DIFFERENCE = {
    "difference": "mean",
    "difference_low": "low",
    "difference_high": "high",
    "adjusted_p": "adjusted_p",
    "verdict": "verdict",
}


def trial_rows(table: Table, *, measured: bool = True) -> list[dict[str, Json]]:
    """Return a row a trial: where it stands, what it scored, its gates, and what it took.

    Columns name their unit where there is one: a loss is in nats a token, time in seconds.
    """
    return [
        {
            "variant": row.variant,
            "seed": trial.seed,
            "state": trial.state,
            "reason": trial.reason,
            "average": table_row.average_by_seed.get(trial.seed),
            **({} if trial.result is None else _of_result(trial.result)),
            **({} if row.tuning is None else _chosen(row.tuning)),
            **(_of_clock(trial) if measured else {}),
        }
        for row, table_row in zip(table.record.rows, table.rows, strict=True)
        for trial in row.trials
    ]


def _of_result(result: TrialResult) -> dict[str, Json]:
    gates = {
        f"gate/{part}/{_with_unit(name)}": value
        for part in ("overall", "prompt", "answer")
        for name, value in result.gates.get(part, {}).items()
    }
    return {
        "key": result.key,
        "trainable_parameters": result.parameters["trainable"],
        "all_parameters": result.parameters["all"],
        **{_with_unit(name): value for name, value in result.metrics.items()},
        **gates,
    }


def _with_unit(metric: str) -> str:
    """Return the name of a metric's column, with its unit behind what is measured in one."""
    parts = metric.split("/")
    return "/".join(f"{part}_nats" if part in _IN_NATS else part for part in parts)


_IN_NATS = ("loss", "loss_before", "entropy", LOG_PROBABILITY)


def _chosen(tuning: TuningRecord) -> dict[str, Json]:
    return {f"tuned/{name}": value for name, value in tuning.chosen.items()}


def _of_clock(trial: TrialRecord) -> dict[str, Json]:
    taken = {} if trial.result is None else trial.result.measured
    return {
        "seconds": trial.seconds,
        "scoring_seconds": taken.get("eval_seconds"),
        "peak_memory_bytes": taken.get("peak_memory_bytes"),
    }


def json_rows(table: Table, *, measured: bool = True) -> list[dict[str, Json]]:
    """Return the rows as JSON values: unrounded fractions, null where a number is missing."""
    return [_json_row(row, table.paper, measured=measured) for row in table.rows]


def _json_row(row: TableRow, paper: PaperComparison | None, *, measured: bool) -> dict[str, Json]:
    values: dict[str, Json] = {
        "variant": row.variant,
        "seeds": len(row.seeds),
        "scores": dict(row.scores),
        "other_scores": {name.removeprefix("test/"): v for name, v in row.others.items()},
        "average": row.average,
        "average_sd": row.spread,
        "average_by_seed": {f"seed{seed}": v for seed, v in row.average_by_seed.items()},
        "difference": _difference(row.comparison),
        "published": row.published,
        "published_comparison": _beside_paper(row.variant, paper),
        "trainable_parameters": row.trainable,
        "trainable_share": row.trainable_share,
        "knowledge": _knowledge(row.knowledge, row.knowledge_loss),
        "no_keyword": dict(row.no_keyword),
        "gates": dict(row.gates),
        "gate_histogram": list(row.gate_histogram),
        "tuning": _tuning(row.tuning),
        "findings": [dataclasses.asdict(finding) for finding in row.findings],
        "notes": list(row.notes),
    }
    if measured:
        values |= {
            "seconds": row.seconds,
            "scoring_seconds": row.scoring_seconds,
            "peak_memory_bytes": row.peak_memory_bytes,
        }
    return values


def _difference(comparison: Comparison | None) -> dict[str, Json] | None:
    if comparison is None:
        return None
    d, crossed, runs = comparison.difference, comparison.crossed, comparison.single_runs
    return {
        "mean": d.mean,
        "low": _finite(d.low),
        "high": _finite(d.high),
        "p": _finite(d.p),
        "adjusted_p": _finite(comparison.adjusted_p),
        "pairs": d.pairs,
        "sd": _finite(d.sd),
        "verdict": comparison.verdict,
        "seeds_needed": comparison.seeds_needed,
        "bootstrap_low": None if crossed is None else _finite(crossed.low),
        "bootstrap_high": None if crossed is None else _finite(crossed.high),
        "mcnemar_p": None if runs is None else runs.p,
    }


def _tuning(tuning: TuningRecord | None) -> dict[str, Json] | None:
    if tuning is None:
        return None
    values = {each.name: getattr(tuning, each.name) for each in dataclasses.fields(tuning)}
    del values["results"]  # which the choice rests on
    return values


def _beside_paper(variant: str, paper: PaperComparison | None) -> dict[str, Json] | None:
    if paper is None:
        return None
    row = next((row for row in paper.rows if row.variant == variant), None)
    if row is None:
        return None
    return {
        "step": row.step,
        "step_inside_interval": row.step_inside,
        "difference": row.difference,
        "verdict": row.verdict,
        "trainable_share": row.published_trainable,
    }


def _knowledge(lost: MeanInterval | None, loss: float | None) -> dict[str, Json] | None:
    if loss is None:
        return None
    return {
        "loss": loss,
        "change": None if lost is None else lost.mean,
        "change_low": None if lost is None else _finite(lost.low),
        "change_high": None if lost is None else _finite(lost.high),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
