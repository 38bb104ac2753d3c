"""A study's report as a page to explore: tables that sort, curves, items that rows differ on."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatera.reports.answers import Answer, Answers, AskedItem, Flips, flips, scores_by_seed
from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.forms.cells import Cells
from gatera.reports.forms.figures import figure_name
from gatera.reports.forms.sections import Drawn, Listing, Part, introduction, whole
from gatera.reports.pages.rendering import as_data, render
from gatera.reports.records import TrialRecord
from gatera.reports.tables import FROZEN, Table
from gatera.trial import Json

MOST_BYTES = 5_000_000  # of a page
_LEAVES_ROOM = 100_000  # bytes, for what was estimated and not counted
_MOST_POINTS = 200  # of a curve
_IN_PAGE = ("differences", "learning_curves")  # figures that the page draws itself


def report_page(
    table: Table,
    answers: Answers,
    figures: Sequence[Path] = (),
    *,
    measured: bool = True,
    most_bytes: int = MOST_BYTES,
) -> str:
    """Return the page, which needs nothing beside itself.

    Args:
        table: What is reported.
        answers: Of all its rows.
        figures: Those that were drawn of it, of which the page draws some itself.
        measured: Whether to show what a clock or a host says.
        most_bytes: Size of the page; items that rows agree on most are left out for it.
    """
    record = table.record
    pictures = {name: path for path in figures if (name := figure_name(path)) not in _IN_PAGE}
    drawn = [*pictures, *(["differences"] if table.tested else [])]
    first, *others = whole(table, measured=measured, figures=drawn)
    values: dict[str, Any] = {
        "title": f"{record.study} at scale {record.scale}",
        "introduction": introduction(record),
        "answer": [_shown(part, pictures) for part in first.parts],
        "sections": [
            (each.title, [_shown(part, pictures) for part in each.parts]) for each in others
        ],
        "without_prompts": answers.without_prompts,
        "tasks": record.tasks,
        "words": _words(answers),
    }
    data = _data(table, answers)
    items = data.pop("items")
    without = len(render("report.html", **values, data=data, kept=0, left_out=0).encode())
    kept = _kept(items, answers, most_bytes - without - _LEAVES_ROOM)
    data["items"] = [items[place] for place in kept]
    left_out = len(items) - len(kept)
    return render("report.html", **values, data=data, kept=len(kept), left_out=left_out)


def _shown(part: Part, pictures: Mapping[str, Path]) -> tuple[str, Any]:
    """Return what the template shows a part as, and what it shows."""
    if isinstance(part, Cells):
        return "table", part
    if isinstance(part, Listing):
        return "list", [(each, ()) if isinstance(each, str) else each for each in part.lines]
    if isinstance(part, Drawn):
        if part.name in pictures:
            return "picture", _as_address(pictures[part.name])
        return part.name, None
    return "text", part


def _as_address(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _data(table: Table, answers: Answers) -> dict[str, Json]:
    """Return what the page's script draws and lists."""
    record = table.record
    names = [row.variant for row in record.rows if row.variant in answers.by_variant]
    before, after = _around(answers.items)
    return {
        "reference": record.reference,
        "unit": ENDPOINTS[record.endpoint].unit,
        "tasks": list(record.tasks),
        "words": _words(answers),
        "rows": [{"name": name, "seeds": list(answers.by_variant[name])} for name in names],
        "differences": list(_differences(table)),
        "averages": {row.variant: _by_seed(row.average_by_seed) for row in table.rows},
        "averages_unit": ENDPOINTS[record.endpoint].axis,
        "curves": {
            row.variant: [_curves(trial) for trial in row.trials if trial.result is not None]
            for row in record.rows
            if row.variant != FROZEN
        },
        "flips": _all_flips(table, answers, names),
        "around": [before, after],
        "items": list(_items(answers, names, before, after)),
    }


def _words(answers: Answers) -> list[str]:
    """Return what a change for the worse and one for the better are called."""
    runs = (run for by_seed in answers.by_variant.values() for run in by_seed.values())
    scores = {each.score for run in runs for each in run if each is not None}
    graded = not scores <= {0.0, 1.0}
    return (
        ["to a lower score", "to a higher score"] if graded else ["right → wrong", "wrong → right"]
    )


def _differences(table: Table) -> Iterator[dict[str, Json]]:
    for name, each in table.tested.items():
        d, crossed = each.difference, each.crossed
        yield {
            "name": name,
            "mean": 100 * d.mean,
            "low": _times_100(d.low),
            "high": _times_100(d.high),
            "bootstrap": None
            if crossed is None
            else [_times_100(crossed.low), _times_100(crossed.high)],
            "verdict": each.verdict,
        }


def _times_100(value: float) -> float | None:
    return 100 * value if math.isfinite(value) else None


def _by_seed(averages: Mapping[int, float]) -> list[list[float]]:
    return [[seed, 100 * value] for seed, value in averages.items()]


def _curves(trial: TrialRecord) -> dict[str, Json]:
    curves = trial.curves
    return {
        "seed": trial.seed,
        "loss": _thinned(curves.train_loss),
        "accuracy": [[step, round(100 * value, 2)] for step, value in _thinned(curves.accuracy)],
    }


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return points of a long curve at even distances, the last among them."""
    every = max(1, math.ceil(len(points) / _MOST_POINTS))
    kept = points[::-1][::every][::-1]
    return [(step, round(value, 4)) for step, value in kept if math.isfinite(value)]


def _all_flips(table: Table, answers: Answers, names: Sequence[str]) -> Json:
    """Return for each row, for each other: items that differ, runs lost, runs won; over all items.

    For each task and, last, for all tasks together.
    """
    scores = scores_by_seed(answers, table.record)
    of_task = np.array([item.task for item in answers.items])
    masks = [of_task == task for task in table.record.tasks]
    masks.append(np.ones(len(answers.items), dtype=bool))
    pairs = [[flips(scores[first], scores[second]) for second in names] for first in names]
    return [
        [[Flips(each.lost[mask], each.won[mask]).totals for mask in masks] for each in of_first]
        for of_first in pairs
    ]


def _around(items: Sequence[AskedItem]) -> tuple[str, str]:
    """Return the lines that all prompts begin and end with: the template's own, said once."""
    prompts = [item.prompt.splitlines(keepends=True) for item in items if item.prompt is not None]
    if len(prompts) < 2:
        return "", ""
    before = _shared(prompts)
    after = _shared([lines[len(before) :][::-1] for lines in prompts])
    return "".join(before), "".join(after[::-1])


def _shared(texts: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines that all texts begin with."""
    alike = itertools.takewhile(lambda lines: len(set(lines)) == 1, zip(*texts, strict=False))
    return [lines[0] for lines in alike]


def _items(
    answers: Answers, names: Sequence[str], before: str, after: str
) -> Iterator[dict[str, Json]]:
    """Yield each item with the different answers to it, and who gave which."""
    for place, item in enumerate(answers.items):
        distinct: dict[Answer, int] = {}
        gave = [
            [_number(distinct, given[place]) for given in answers.by_variant[name].values()]
            for name in names
        ]
        prompt = item.prompt
        yield {
            "task": item.task,
            "index": item.index,
            "prompt": None if prompt is None else prompt[len(before) : len(prompt) - len(after)],
            "answer": item.answer,
            "given": [[each.output, each.extracted, round(each.score, 4)] for each in distinct],
            "by": gave,
        }


def _number(distinct: dict[Answer, int], given: Answer | None) -> int:
    """Return the number of an answer among the different ones; -1 for none."""
    return -1 if given is None else distinct.setdefault(given, len(distinct))


def _kept(items: Sequence[Json], answers: Answers, most_bytes: int) -> list[int]:
    """Return the places of the items that fit, those that rows differ on most before others."""
    sizes = [len(as_data(item).encode()) + 1 for item in items]
    spread = _disagreement(answers)
    kept, size = [], 0
    for place in sorted(range(len(sizes)), key=lambda place: -spread[place]):
        if (size := size + sizes[place]) > most_bytes:
            break
        kept.append(place)
    return sorted(kept)


def _disagreement(answers: Answers) -> np.ndarray:
    """Return how far the rows' mean scores of each item scatter, (items,)."""
    if not answers.by_variant:
        return np.zeros(len(answers.items))
    means = [
        np.mean([[0.0 if each is None else each.score for each in run] for run in runs], axis=0)
        for by_seed in answers.by_variant.values()
        if (runs := list(by_seed.values()))
    ]
    return np.asarray(np.std(np.array(means), axis=0))
