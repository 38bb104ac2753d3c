"""Writing a report: every form of a study's table, into one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gatera.reports.answers import Answers
from gatera.reports.files import gate_files
from gatera.reports.forms.figures import write_figures
from gatera.reports.forms.latex import latex, latex_by_task
from gatera.reports.forms.markdown import markdown
from gatera.reports.forms.tracked import Tracked, tracked
from gatera.reports.forms.values import (
    contrast_values,
    csv_text,
    json_rows,
    matched_values,
    order_values,
    trials_csv_text,
)
from gatera.reports.pages.report import report_page
from gatera.reports.records import StudyRecord, refuse_mixed
from gatera.reports.tables import build_table
from gatera.trial import Json


@dataclass(frozen=True)
class WrittenReport:
    """The files of a report, its text and its rows."""

    markdown: str
    rows: list[dict[str, Json]]
    contrasts: dict[str, Json]  # by name
    matched: dict[str, Json]  # by row: knowledge lost at equal accuracy
    order: dict[str, Json] | None  # of the rows, beside the published one
    files: tuple[Path, ...]
    tracked: Tracked  # what an experiment tracker shows of it


def write_report(
    record: StudyRecord,
    folder: Path,
    answers: Answers | None = None,
    *,
    measured: bool = True,
    allow_mixed: bool = False,
) -> WrittenReport:
    """Write every form of a report into `folder`, each called by the plan's id.

    That is `.md`, `.csv` and `.tex` with the compact table, `.trials.csv` with a line a trial,
    `.tasks.tex` with the scores by task, `figures/*.png`, and `.html`, the page to explore.

    Args:
        record: The study's rows and results.
        folder: Where the files go; made where it does not exist.
        answers: Of all rows, for the page; None: no page.
        measured: Whether to print what a clock or a host says.
        allow_mixed: Whether results that were not made alike may stand in one table.

    Raises:
        InputError: the results were not made alike, and `allow_mixed` is false.
    """
    if not allow_mixed:
        refuse_mixed(record)
    table = build_table(record)
    folder.mkdir(parents=True, exist_ok=True)
    figures = write_figures(table, folder / "figures", measured=measured)
    page = None if answers is None else f"{record.plan_id}.html"
    drawn = [f"figures/{path.name}" for path in figures]
    gates = next((path.name for path in gate_files(folder, record.plan_id)), None)
    text = markdown(table, measured=measured, figures=drawn, page=page, gates=gates)
    files = {
        "md": text,
        "csv": csv_text(table),
        "trials.csv": trials_csv_text(table, measured=measured),
        "tex": latex(table),
        "tasks.tex": latex_by_task(table),
        **(
            {}
            if answers is None
            else {"html": report_page(table, answers, figures, measured=measured)}
        ),
    }
    written = []
    for suffix, content in files.items():
        path = folder / f"{record.plan_id}.{suffix}"
        path.write_text(content, encoding="utf-8")
        written.append(path)
    return WrittenReport(
        text,
        json_rows(table, measured=measured),
        contrast_values(table),
        matched_values(table),
        order_values(table),
        (*written, *figures),
        tracked(table),
    )
