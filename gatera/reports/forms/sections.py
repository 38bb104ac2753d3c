"""What a report says, section by section, before it has a form: texts, tables, lists, figures.

Texts may hold three marks: `name`, **strong** and *verdict*. The markdown and the page both show
these sections; neither says anything of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.forms import reading
from gatera.reports.forms.cells import (
    Cells,
    compact_cells,
    contrast_cells,
    cost_cells,
    gate_cells,
    matched_cells,
    other_cells,
    paper_cells,
    score_cells,
    signal_cells,
    task_gate_cells,
    tuning_cells,
    verdict_cells,
)
from gatera.reports.forms.findings import findings
from gatera.reports.forms.notes import footnotes, provenance, settings
from gatera.reports.records import StudyRecord
from gatera.reports.tables import Table
from gatera.trial import Json


@dataclass(frozen=True)
class Listing:
    """Lines beside each other; each may have lines beneath it."""

    lines: Sequence[str | tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Drawn:
    """Where the figure of this name belongs, if it was drawn."""

    name: str


Part = str | Cells | Listing | Drawn


@dataclass(frozen=True)
class Section:
    """A heading and what stands beneath it."""

    title: str
    parts: Sequence[Part]


def whole(table: Table, *, measured: bool, figures: Collection[str]) -> list[Section]:
    """Return a report's sections: the answer, what stands behind it, and figures that are left.

    Args:
        table: What is reported.
        measured: Whether to say what a clock or a host says.
        figures: The names of those that were drawn; a section has those of its own alone.
    """
    sections = [answer(table), *details(table, measured=measured)]
    placed = {part.name for each in sections for part in each.parts if isinstance(part, Drawn)}
    if left := [Drawn(name) for name in figures if name not in placed]:
        at_the_foot = (n for n, each in enumerate(sections) if each.title in _AT_THE_FOOT)
        sections.insert(next(at_the_foot), Section("Further figures", left))
    return [
        Section(each.title, [part for part in each.parts if _is_there(part, figures)])
        for each in sections
    ]


_AT_THE_FOOT = ("Notes", "Settings", "Provenance")


def _is_there(part: Part, figures: Collection[str]) -> bool:
    return not isinstance(part, Drawn) or part.name in figures


def introduction(record: StudyRecord) -> list[str]:
    """Return the study's question, what it reproduces, and how the run departs from it."""
    lines = [record.title] if record.title else []
    if record.reproduces:
        lines.append(f"Reproduces {record.reproduces}.")
    if record.departures:
        lines.append(f"**Departs from the study's defaults** — {_said(record.departures)}.")
    return lines


def answer(table: Table) -> Section:
    """Return what a report begins with: the findings, and the table that they are read from."""
    shown = [contrast_cells(table)] if table.contrasts else []
    return Section(
        "Findings",
        [
            Listing(findings(table)),
            reading.of_averages(table),
            *shown,
            compact_cells(table),
            Drawn("differences"),
            Drawn("curve"),
        ],
    )


def details(table: Table, *, measured: bool) -> list[Section]:
    """Return what stands behind the answer; `measured`: with what a clock or a host says."""
    record = table.record
    found = [
        *_scores_and_verdicts(table),
        Section(
            "Knowledge, time and memory",
            [cost_cells(table, measured=measured), *reading.of_columns(table), Drawn("cost")],
        ),
        *_knowledge_and_gates(table),
        *_doubts(table),
        _listed("Notes", footnotes(table)),
        _listed("Settings", settings(record)),
        _listed("Provenance", provenance(record)),
    ]
    return [section for section in found if section is not None]


def _scores_and_verdicts(table: Table) -> Iterator[Section]:
    if len(table.record.tasks) > 1:
        drawn = [Drawn(name) for name in ENDPOINTS]  # called by an endpoint: scores by task
        yield Section("Scores by task", [score_cells(table), *drawn])
    read = list(reading.of_differences(table))
    if table.tested:
        yield Section("Differences", [verdict_cells(table), *read])
    else:
        yield Section("Reading the differences", read)


def _knowledge_and_gates(table: Table) -> Iterator[Section]:
    if cells := matched_cells(table):
        yield Section(
            "Knowledge kept at equal accuracy",
            [cells, *reading.of_matched(table), Drawn("knowledge")],
        )
    if any(row.gates for row in table.rows):
        yield Section("Gates", [gate_cells(table), reading.of_gates(table.record), Drawn("gates")])
    if cells := task_gate_cells(table):
        yield Section("Gates by task", [cells, reading.TASK_GATES])


def _doubts(table: Table) -> Iterator[Section]:
    """Yield what a reader should know before the numbers are believed."""
    if hints := _hints(table):
        yield Section("Diagnosis", [_DIAGNOSIS, Listing(hints)])
    if any(row.tuning for row in table.rows):
        yield Section("Tuning", [tuning_cells(table), reading.TUNING])
    if table.paper is not None:
        yield Section("Against the paper", [paper_cells(table), *reading.beside_the_paper(table)])
    if cells := other_cells(table):
        yield Section("Other scores", [cells, reading.OTHER])
    if cells := signal_cells(table):
        yield Section("Endpoints", [cells, reading.SIGNAL])


def _listed(title: str, lines: Sequence[str]) -> Section | None:
    return Section(title, [Listing(lines)]) if lines else None


def _said(departures: Mapping[str, Json]) -> str:
    """Return how a run departs from its study, as the options that ask for it."""
    options = [f"--set {name}={value}" for name, value in departures.get("set", {}).items()]
    for name in ("seeds", "tasks", "variants"):
        if name in departures:
            value = departures[name]
            options.append(f"--{name} {','.join(value) if isinstance(value, list) else value}")
    return ", ".join(f"`{option}`" for option in options)


_DIAGNOSIS = (
    "What looks wrong, found by fixed limits in the stored numbers. These are hints to follow, "
    "not verdicts."
)


def _hints(table: Table) -> list[tuple[str, list[str]]]:
    """Return what looks wrong, a kind at a time, so that what all rows share stands once."""
    kinds: dict[str, list[str]] = {}
    for row in table.rows:
        for finding in row.findings:
            of_kind = kinds.setdefault(f"**{finding.kind}**, to try: {finding.advice}", [])
            of_kind.append(f"{row.variant}: {finding.message}")
    return list(kinds.items())
