"""Figures of a study, drawn from the same table as its numbers."""

from __future__ import annotations

import math
import statistics as basic
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.judging.comparison import Comparison
from gatera.reports.records import RowRecord, StudyRecord
from gatera.reports.tables import FROZEN, Table, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_METADATA = {"Software": None}  # no version in the file: the same bytes everywhere

_Points = Sequence[tuple[int, float]]


def write_figures(table: Table, folder: Path, *, measured: bool = True) -> list[Path]:
    """Draw what the table allows into `folder`; return the files, which may be none."""
    written = []
    for name, figure in _figures(table, measured=measured):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{table.record.plan_id}.{name}.png"
        figure.savefig(path, dpi=_DPI, metadata=_METADATA)
        written.append(path)
    return written


def figure_name(path: Path | str) -> str:
    """Return what a figure shows: the last part of `<plan id>.<what>.png`."""
    return str(path).split(".")[-2]


def _figures(table: Table, *, measured: bool = True) -> Iterator[tuple[str, Figure]]:
    """Yield the figures that the table allows, each with its name.

    Args:
        table: What is drawn.
        measured: Whether to draw what a clock says.
    """
    if table.tested:
        to = "" if table.contrasts else f" to {table.record.reference}"
        unit = ENDPOINTS[table.record.endpoint].unit
        yield (
            "differences",
            draw_differences(table.tested, f"difference{to}, {unit} of the average"),
        )
    styles = _styles(table.record)
    scored = [row for row in table.rows if row.average is not None]
    if any(row.variant != FROZEN for row in scored):
        yield table.record.endpoint, _scores(scored, table.record, styles)
    trained = [row for row in scored if row.trainable]
    if len(trained) > 1:
        axis = f"average {ENDPOINTS[table.record.endpoint].axis} (± SD over seeds)"
        yield "cost", draw_cost(trained, styles, axis, measured=measured)
    followed = [row for row in table.record.rows if any(t.curves.train_loss for t in row.trials)]
    if followed:
        yield "learning_curves", _learning_curves(followed, styles)
    kept = [row for row in table.record.rows if any(t.curves.knowledge for t in row.trials)]
    if kept:
        yield "knowledge", _knowledge(kept, styles)
    binned = [row for row in table.rows if row.gate_histogram]
    if binned:
        yield "gates", _gates(binned, styles)
    if table.record.curve is not None:
        yield "curve", draw_curve(table, table.record.curve)


@dataclass(frozen=True)
class _Style:
    """How a row is drawn, the same in all figures; two rows differ in more than their color."""

    color: str | tuple[float, ...]
    marker: str
    line: str


_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_FEW = 10  # rows that matplotlib's own colors tell apart; of more, pairs share a hue


def _styles(record: StudyRecord) -> dict[str, _Style]:
    from matplotlib import colormaps

    names = [row.variant for row in record.rows if row.variant != FROZEN]
    hues = colormaps["tab10" if len(names) <= _FEW else "tab20"]
    return {FROZEN: _Style("0.6", "o", "-")} | {
        name: _Style(hues(place % hues.N), _MARKERS[place % len(_MARKERS)], ("-", "--")[place % 2])
        for place, name in enumerate(names)
    }


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_differences(compared: Mapping[str, Comparison], what: str) -> Figure:
    """Draw differences by name: thick over seeds, thin the bootstrap; `what` says of what."""
    figure = _new_figure(6.4, 1.1 + 0.4 * len(compared))
    axes = figure.add_subplot()
    axes.axvline(0, color="0.6", linewidth=1)
    for place, each in enumerate(reversed(list(compared.values()))):
        d, crossed = each.difference, each.crossed
        color = "C0" if each.verdict == "resolved" else "0.4"
        if math.isfinite(d.low):
            axes.plot([100 * d.low, 100 * d.high], [place, place], color=color, linewidth=2)
        if crossed is not None and math.isfinite(crossed.low + crossed.high):
            below = [place - 0.18, place - 0.18]
            axes.plot([100 * crossed.low, 100 * crossed.high], below, color=color, linewidth=0.7)
        axes.plot(100 * d.mean, place, "o", color=color)
    axes.set_yticks(range(len(compared)), list(reversed(list(compared))))
    axes.set_ylim(-0.6, len(compared) - 0.4)
    drawn = any(each.crossed for each in compared.values())
    lines = "95 %; thick: over seeds, thin: bootstrap over seeds and items" if drawn else "95 %"
    axes.set_xlabel(f"{what}\n({lines})")
    return figure


def _scores(rows: Sequence[TableRow], record: StudyRecord, styles: Mapping[str, _Style]) -> Figure:
    """Draw each row's score on each task, rows side by side within a task."""
    tasks = record.tasks
    figure = _new_figure(max(6.4, 1.1 * len(tasks)), 3.6)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        shift = 0.7 * ((place + 0.5) / len(rows) - 0.5)
        scores = [(t + shift, row.scores[task]) for t, task in enumerate(tasks)]
        known = [(x, score) for x, score in scores if score is not None]
        style = styles[row.variant]
        xs, ys = [x for x, _ in known], [100 * y for _, y in known]
        axes.plot(xs, ys, style.marker, markersize=4, color=style.color, label=row.variant)
    axes.set_xticks(range(len(tasks)), list(tasks), rotation=30, ha="right")
    axes.set_ylabel(f"{ENDPOINTS[record.endpoint].axis} (mean over seeds)")
    if ENDPOINTS[record.endpoint].is_published:
        axes.set_ylim(-3, 103)
    _legend_outside(axes)
    return figure


def draw_cost(
    rows: Sequence[TableRow], styles: Mapping[str, _Style], axis: str, *, measured: bool
) -> Figure:
    """Draw each row's average against what it trains and, `measured`, against its time."""
    timed = measured and all(row.seconds is not None for row in rows)
    figure = _new_figure(8.6 if timed else 6.0, 3.6)
    panels = figure.subplots(1, 2, sharey=True) if timed else [figure.add_subplot()]
    for row in rows:
        places = [float(row.trainable or 0), row.seconds or 0.0]
        for panel, place in zip(panels, places, strict=False):
            style, error = styles[row.variant], 100 * (row.spread or 0.0)
            drawn: dict[str, Any] = {"marker": style.marker, "color": style.color, "capsize": 2}
            panel.errorbar(
                place, 100 * (row.average or 0.0), yerr=error, label=row.variant, **drawn
            )
    sizes = [float(row.trainable or 0) for row in rows]
    by_factors = max(sizes) / min(sizes) > _WIDE
    _count(panels[0], by_factors=by_factors)
    if not by_factors:
        _from_nothing(panels[0], max(sizes))
    panels[0].set_xlabel("trainable parameters")
    panels[0].set_ylabel(axis)
    if timed:
        _from_nothing(panels[1], max(row.seconds or 0.0 for row in rows))
        panels[1].set_xlabel("time of a trial, s (training and scoring)")
    _legend_outside(panels[-1])
    return figure


def _from_nothing(axes: Axes, most: float) -> None:
    """Begin an axis at 0, so that a hundredth more does not look like twice as much."""
    axes.set_xlim(0, 1.05 * most)  # the last marker is whole


def _count(axes: Axes, *, by_factors: bool) -> None:
    """Let an axis of large whole numbers be read."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    if by_factors:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if by_factors else MaxNLocator(4))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


_WIDE = 4  # how many times smaller the smallest may be before an axis goes by factors


def _learning_curves(rows: Sequence[RowRecord], styles: Mapping[str, _Style]) -> Figure:
    """Draw training loss and validation accuracy by step, mean over seeds with their range."""
    figure = _new_figure(8.6, 3.4)
    loss, accuracy = figure.subplots(1, 2)
    for row in rows:
        curves, style = [t.curves for t in row.trials if t.result is not None], styles[row.variant]
        _band(loss, [c.train_loss for c in curves], style, row.variant, 1.0)
        _band(accuracy, [c.accuracy for c in curves], style, row.variant, 100.0)
    loss.set_xlabel("optimizer step")
    loss.set_ylabel("training loss, nats a token")
    accuracy.set_xlabel("optimizer step")
    accuracy.set_ylabel("validation accuracy, %")
    _legend_outside(accuracy)
    return figure


def _knowledge(rows: Sequence[RowRecord], styles: Mapping[str, _Style]) -> Figure:
    """Draw each run's loss on held-out text against its validation accuracy, step by step."""
    figure = _new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    for row in rows:
        label: str | None = row.variant
        style = styles[row.variant]
        drawn: dict[str, Any] = {
            "color": style.color,
            "marker": style.marker,
            "linestyle": style.line,
        }
        for trial in row.trials:
            losses = dict(trial.curves.knowledge)
            course = [(100 * right, losses[s]) for s, right in trial.curves.accuracy if s in losses]
            if course:
                xs, ys = zip(*course, strict=True)
                axes.plot(xs, ys, markersize=3, linewidth=0.8, label=label, **drawn)
                label = None  # once a row
    axes.set_xlabel("validation accuracy, %")
    axes.set_ylabel("loss on held-out text, nats a token")
    _legend_outside(axes)
    return figure


def _band(axes: Axes, curves: Sequence[_Points], style: _Style, label: str, factor: float) -> None:
    """Draw the mean of curves over the steps that all have, and the range between them."""
    points = [dict(curve) for curve in curves if curve]
    if not points:
        return
    steps = sorted(set.intersection(*(set(found) for found in points)))
    values = [[factor * found[step] for found in points] for step in steps]
    marker = style.marker if len(steps) <= 10 else None
    means = [basic.fmean(each) for each in values]
    drawn: dict[str, Any] = {"color": style.color, "linestyle": style.line, "marker": marker}
    axes.plot(steps, means, label=label, linewidth=1.2, markersize=5, **drawn)
    lows, highs = [min(each) for each in values], [max(each) for each in values]
    axes.fill_between(steps, lows, highs, color=style.color, alpha=0.15, linewidth=0)


def _gates(rows: Sequence[TableRow], styles: Mapping[str, _Style]) -> Figure:
    """Draw how the gates' values are spread, each gated layer counted alike."""
    figure = _new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    for row in rows:
        bins = len(row.gate_histogram)
        edges = [place / bins for place in range(bins + 1)]
        style, shares = styles[row.variant], [100 * share for share in row.gate_histogram]
        axes.stairs(shares, edges, label=row.variant, color=style.color, linestyle=style.line)
    axes.set_xlim(0, 1)
    axes.set_xlabel("gate value")
    axes.set_ylabel("share of tokens, %")
    _legend_outside(axes)
    return figure


def _legend_outside(axes: Axes) -> None:
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")


def draw_curve(table: Table, field: str) -> Figure:
    """Draw the average along `field`, one line for each set of the other changes.

    A row stands where its resolved configuration has it, whether it changes the field or not. Where
    gates were closed by a threshold, the averages stand beside it once more, against the share of
    updates that were skipped.
    """
    lines: dict[str, list[tuple[float, TableRow]]] = {}
    for row, recorded in zip(table.rows, table.record.rows, strict=True):
        place = _place_of(recorded, field)
        if row.average is not None and place is not None:
            others = {name: v for name, v in row.changes.items() if name != field}
            label = ", ".join(f"{name}={v}" for name, v in others.items()) or "as the reference"
            lines.setdefault(label, []).append((place, row))
    skips = any(_skipped(row) for points in lines.values() for _, row in points)
    figure = _new_figure(9.6 if skips else 5.6, 3.6)
    panels = figure.subplots(1, 2, sharey=True) if skips else [figure.add_subplot()]
    for label, points in lines.items():
        points.sort(key=lambda point: point[0])
        _draw_line(panels[0], points, label)
        if skips:
            _draw_line(panels[1], [(100 * _skipped(row), row) for _, row in points], label)
    _scale(panels[0], [x for points in lines.values() for x, _ in points])
    panels[0].set_xlabel(field)
    panels[0].set_ylabel(f"average {ENDPOINTS[table.record.endpoint].axis} (± SD over seeds)")
    if skips:
        panels[1].set_xlabel("updates skipped in evaluation, %")
    if lines:
        panels[0].legend()
    return figure


def _draw_line(axes: Axes, points: Sequence[tuple[float, TableRow]], label: str) -> None:
    means = [100 * (row.average or 0.0) for _, row in points]
    errors = [100 * (row.spread or 0.0) for _, row in points]
    axes.errorbar([x for x, _ in points], means, yerr=errors, marker="o", capsize=3, label=label)


def _skipped(row: TableRow) -> float:
    """Return the share of updates that a row's threshold skips; 0 without one."""
    return float(row.gates.get("overall", {}).get("share_skipped", 0.0))


def _place_of(row: RowRecord, field: str) -> float | None:
    """Return a row's value of `field`; None where it has none, or one at each seed."""
    section, _, name = field.partition(".")
    values = {result.config.get(section, {}).get(name) for result in row.results.values()}
    value = values.pop() if len(values) == 1 else None
    return None if value is None or row.variant == FROZEN else float(value)


def _scale(axes: Axes, xs: Sequence[float]) -> None:
    """Let values that grow by factors lie evenly; a zero among them at the foot of the axis."""
    positive = sorted({x for x in xs if x > 0})
    if not positive or positive[-1] / positive[0] < 12:
        return
    powers_of_2 = all(math.log2(x).is_integer() for x in positive)
    if len(positive) == len(set(xs)):
        axes.set_xscale("log", base=2 if powers_of_2 else 10)
    else:
        axes.set_xscale("symlog", linthresh=positive[0])
