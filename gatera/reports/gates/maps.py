"""Figures of gates: a map of layers and modules with histograms, and reading beside writing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gatera.reports.gates.effects import (
    BINS,
    OPEN,
    Effect,
    GateRow,
    Judged,
    ModuleMean,
    histograms,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 4  # panels beside each other
_FEW_LAYERS = 12  # whose cells have room for a number
_READ, _WRITTEN = "C0", "C1"


def draw_map(judged: Judged) -> Figure | None:
    """Draw, for each row, the mean gate by layer and module, and under it how gates are spread.

    None where no test item was read.
    """
    rows = [row for row in judged.rows if row.items]
    if not rows:
        return None
    of_rows = {row.variant: _of(judged, row) for row in rows}
    layers = max(len({each.layer for each in found}) for found in of_rows.values())
    height = min(8.0, 1.3 + 0.36 * max(3, layers))
    figure, grid = _panels(len(rows), [height, 1.9], width=3.4)
    shown = None
    for (above, below), row in zip(grid, rows, strict=True):
        shown = _draw_cells(above, of_rows[row.variant])
        above.set_title(f"{row.variant}, seed {row.seed}", fontsize="medium")
        _draw_histogram(below, row)
    assert shown is not None
    figure.colorbar(shown, ax=[above for above, _ in grid], label="mean gate", shrink=0.8)
    handles, labels = next(
        (below.get_legend_handles_labels() for (_, below), row in zip(grid, rows, strict=True)
         if not row.tokens.constant),
        ([], []),
    )  # fmt: skip
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_by_layer(judged: Judged) -> Figure | None:
    """Draw the mean gate of prompt and of decoded tokens by layer, and the effect below.

    None where no row has an effect.
    """
    names = [name for name, layers in judged.by_layer.items() if layers]
    if not names:
        return None
    figure, grid = _panels(len(names), [2.4, 2.0], width=3.4)
    for (above, below), name in zip(grid, names, strict=True):
        layers = judged.by_layer[name]
        xs = [each.layer or 0 for each in layers]
        above.plot(xs, [each.before for each in layers], "o--", color=_READ, label="prompt tokens")
        above.plot(
            xs, [each.after for each in layers], "s-", color=_WRITTEN, label="decoded tokens"
        )
        above.set_title(name, fontsize="medium")
        above.set_ylim(0, 1.03)
        above.set_ylabel("mean gate")
        _draw_effects(below, layers)
        for axes in (above, below):
            axes.set_xticks(_ticks(xs))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _panels(
    count: int, heights: Sequence[float], width: float
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Return a figure with two panels, one above the other, for each of `count` rows."""
    from matplotlib.figure import Figure

    down = math.ceil(count / _ACROSS)
    across = math.ceil(count / down)
    size = (max(5.0, 1.2 + width * across), sum(heights) * down + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * down, across, squeeze=False, height_ratios=[*heights] * down)
    places = [divmod(n, across) for n in range(down * across)]
    pairs = [(axes[2 * y, x], axes[2 * y + 1, x]) for y, x in places]
    for unused in (each for pair in pairs[count:] for each in pair):
        unused.set_axis_off()
    return figure, pairs[:count]


def _of(judged: Judged, row: GateRow) -> list[ModuleMean]:
    return [each for each in judged.modules if each.variant == row.variant]


def _draw_cells(axes: Axes, found: Sequence[ModuleMean]) -> Any:
    """Draw a cell for each gate, layer 0 on top, with its value where there is room."""
    layers = sorted({-1 if each.layer is None else each.layer for each in found})
    kinds = list(dict.fromkeys(each.module for each in found))
    cells = np.full((len(layers), len(kinds)), np.nan)
    for each in found:
        row = layers.index(-1 if each.layer is None else each.layer)
        cells[row, kinds.index(each.module)] = each.mean
    shown = axes.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", fontsize="small")
    places = _ticks(range(len(layers)))
    axes.set_yticks(places, ["" if layers[n] < 0 else str(layers[n]) for n in places])
    axes.set_ylabel("layer")
    if len(layers) <= _FEW_LAYERS:
        for (row, column), value in np.ndenumerate(cells):
            if math.isfinite(value):
                ink = "white" if value < 0.6 else "black"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8
                )
    return shown


def _draw_histogram(axes: Axes, row: GateRow) -> None:
    """Draw the shares of gates by value: of prompt and decoded tokens, or of constant gates."""
    read, written = histograms(row)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    if row.tokens.constant:
        axes.stairs(100 * read, edges, color="0.4", fill=True)
        axes.set_title("one value a gate", fontsize="small")
    else:
        axes.stairs(100 * read, edges, color=_READ, linestyle="--", label="prompt tokens")
        axes.stairs(100 * written, edges, color=_WRITTEN, label="decoded tokens")
    axes.set_xlim(0, 1)
    axes.set_xlabel("gate")
    axes.set_ylabel("share, %")


def _draw_effects(axes: Axes, layers: Sequence[Effect]) -> None:
    """Draw each layer's effect with its interval; hollow where it is not resolved."""
    axes.axhline(0, color="0.6", linewidth=1)
    for each in layers:
        d, x, color = each.difference, each.layer or 0, "0.4" if each.verdict == OPEN else _WRITTEN
        if math.isfinite(d.low):
            axes.plot([x, x], [d.low, d.high], color=color, linewidth=2)
        filled = "none" if each.verdict == OPEN else color
        axes.plot(x, d.mean, "o", color=color, markerfacecolor=filled)
    axes.set_xlabel("layer")
    axes.set_ylabel("decoded − prompt\n(95 %; hollow: open)", fontsize="small")


def _ticks(places: Any) -> list[int]:
    """Return the places that are labelled: all of few, every fourth of many."""
    found = [int(place) for place in places]
    return found if len(found) <= _FEW_LAYERS else found[::4]
