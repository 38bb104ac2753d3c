"""A table for machines: JSON rows and CSV, with unrounded fractions."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

from gatera.reports.judging.agreement import PaperComparison
from gatera.reports.judging.comparison import Comparison
from gatera.reports.judging.paired import MeanInterval
from gatera.reports.records import TuningRecord
from gatera.reports.tables import Table, TableRow
from gatera.trial import Json


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


def csv_text(table: Table, *, measured: bool = True) -> str:
    """Return the rows as CSV; an empty cell is a missing number, explained under `notes`."""
    rows = [_flat(row) for row in json_rows(table, measured=measured)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def compact_rows(table: Table) -> list[dict[str, Json]]:
    """Return the compact table's numbers, under the names that the CSV has for them."""
    return [
        {
            **{name: values[name] for name in ("variant", "seeds", "average", "average_sd")},
            **{
                f"difference.{name}": (values["difference"] or {}).get(name)
                for name in ("mean", "low", "high", "adjusted_p", "verdict")
            },
            **{n: values[n] for n in ("trainable_parameters", "trainable_share", "published")},
        }
        for values in json_rows(table, measured=False)
    ]


def _columns(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    """Return the names of all rows' cells; parts of one value stand side by side."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    # What a row lacks as a whole is empty in each of the parts that other rows have.
    whole = {name.rpartition(".")[0] for name in names}
    groups = list(dict.fromkeys(name.partition(".")[0] for name in names))
    names = [name for name in names if name not in whole]
    return sorted(names, key=lambda name: groups.index(name.partition(".")[0]))


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


def _flat(value: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Return nested values under names such as scores.boolq; lists are joined."""
    flat: dict[str, Json] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = _joined(item) if isinstance(item, list | tuple) else item
    return flat


def _joined(items: list[Json] | tuple[Json, ...]) -> str:
    kinds = [item["kind"] if isinstance(item, Mapping) else str(item) for item in items]
    return "; ".join(kinds)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
