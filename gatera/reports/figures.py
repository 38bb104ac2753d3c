"""Figures of a study, drawn from the same table as its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gatera.reports.tables import Table, TableRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150
_METADATA = {"Software": None}  # no version in the file: the same bytes everywhere


def write_figures(table: Table, folder: Path) -> list[Path]:
    """Draw what the table allows into `folder`; return the files, which may be none."""
    written = []
    for name, figure in _figures(table):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{table.record.stem}.{name}.png"
        figure.savefig(path, dpi=_DPI, metadata=_METADATA)
        written.append(path)
    return written


def _figures(table: Table) -> Iterator[tuple[str, Figure]]:
    compared = [row for row in table.rows if row.comparison is not None]
    if compared:
        yield "differences", _differences(compared, table.record.reference)
    if table.record.curve is not None:
        yield "curve", _curve(table, table.record.curve)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _differences(rows: Sequence[TableRow], reference: str) -> Figure:
    """Draw each row's difference to the reference with its interval."""
    figure = _new_figure(6.4, 1.1 + 0.4 * len(rows))
    axes = figure.add_subplot()
    axes.axvline(0, color="0.6", linewidth=1)
    for place, row in enumerate(reversed(rows)):
        assert row.comparison is not None
        d = row.comparison.difference
        color = "C0" if row.comparison.verdict == "resolved" else "0.4"
        if math.isfinite(d.low):
            axes.plot([100 * d.low, 100 * d.high], [place, place], color=color, linewidth=2)
        axes.plot(100 * d.mean, place, "o", color=color)
    axes.set_yticks(range(len(rows)), [row.variant for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"difference to {reference}, points of average accuracy (95 % interval)")
    return figure


def _curve(table: Table, field: str) -> Figure:
    """Draw the average along `field`, one line for each set of the other changes."""
    figure = _new_figure(5.6, 3.6)
    axes = figure.add_subplot()
    lines: dict[str, list[tuple[float, TableRow]]] = {}
    for row in table.rows:
        if row.average is not None and field in row.changes:
            others = {name: v for name, v in row.changes.items() if name != field}
            label = ", ".join(f"{name}={v}" for name, v in others.items()) or "as the reference"
            lines.setdefault(label, []).append((float(row.changes[field]), row))
    for label, points in lines.items():
        points.sort(key=lambda point: point[0])
        means = [100 * (row.average or 0.0) for _, row in points]
        errors = [100 * (row.spread or 0.0) for _, row in points]
        xs = [x for x, _ in points]
        axes.errorbar(xs, means, yerr=errors, marker="o", capsize=3, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel(field)
    axes.set_ylabel("average accuracy, % (± SD over seeds)")
    if lines:
        axes.legend()
    return figure
