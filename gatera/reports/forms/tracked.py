"""What an experiment tracker shows of a table: a description, and a number for each of its cells.

Plain values, under names that trackers take; whoever knows a tracker hands them over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gatera.reports.forms.markdown import summary
from gatera.reports.judging.comparison import Comparison
from gatera.reports.tables import Table, TableRow

_LONGEST = 7500  # characters of a description; MLflow takes 8,000
_CONTRASTS = "contrasts"


@dataclass(frozen=True)
class Tracked:
    """A table as a tracker shows it."""

    description: str  # markdown: the findings and the compact table
    # "<variant>/<endpoint>/<task>", "<variant>/average", ...: fractions, but for what is missing
    metrics: Mapping[str, float]


def tracked(table: Table) -> Tracked:
    """Return what a tracker shows of a table."""
    numbers = {name: value for name, value in _numbers(table) if value is not None}
    return Tracked(
        _cut("\n\n".join(filter(None, summary(table)))),
        {name: float(value) for name, value in numbers.items() if math.isfinite(value)},
    )


def _numbers(table: Table) -> Iterator[tuple[str, float | None]]:
    for row in table.rows:
        yield from _of_row(row, table.record.endpoint)
    for name, contrast in table.contrasts.items():
        yield from _of_difference(f"{_CONTRASTS}/{_part(name)}", contrast)


def _of_row(row: TableRow, endpoint: str) -> Iterator[tuple[str, float | None]]:
    for task, score in row.scores.items():
        yield f"{row.variant}/{endpoint}/{_part(task)}", score
    yield f"{row.variant}/average", row.average
    yield f"{row.variant}/average_sd", row.spread
    yield f"{row.variant}/seeds", len(row.seeds)
    if row.comparison is not None:
        yield from _of_difference(row.variant, row.comparison)


def _of_difference(name: str, compared: Comparison) -> Iterator[tuple[str, float | None]]:
    """Yield a difference with its 95 % interval, and its p-value where it is tested."""
    yield f"{name}/difference", compared.difference.mean
    yield f"{name}/difference_low", compared.difference.low
    yield f"{name}/difference_high", compared.difference.high
    yield f"{name}/adjusted_p", compared.adjusted_p


def _part(name: str) -> str:
    """Return the name of a task or a contrast as one part of a metric's name."""
    return re.sub(r"[^\w\- :.]", "_", name).strip(" .") or "_"


def _cut(text: str) -> str:
    """Return a text that is not too long, cut at the end of a line."""
    if len(text) <= _LONGEST:
        return text
    return text[:_LONGEST].rpartition("\n")[0] + "\n\n… (the report among the artifacts has all)"
