"""A table as LaTeX, with booktabs rules and its footnotes beneath."""

from __future__ import annotations

from collections.abc import Sequence

from gatera.reports.forms.cells import Cells, compact_cells, contrast_cells, score_cells
from gatera.reports.forms.notes import footnotes
from gatera.reports.tables import Table

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "±": r"$\pm$",
    "—": "---",
}


def latex(table: Table) -> str:
    """Return the compact table as a tabular, contrasts before it, reasons of dashes after it."""
    tables = [contrast_cells(table)] if table.contrasts else []
    return _document(table, [*tables, compact_cells(table)], footnotes(table))


def latex_by_task(table: Table) -> str:
    """Return the rows' scores by task as a tabular."""
    return _document(table, [score_cells(table)], [])


def _document(table: Table, tables: Sequence[Cells], notes: Sequence[str]) -> str:
    said = [rf"{{\footnotesize {escape(note)}.\par}}" for note in notes]
    return "\n".join(
        [
            f"% {table.record.study} at scale {table.record.scale}; needs \\usepackage{{booktabs}}",
            (r"\par\bigskip" + "\n").join(_tabular(cells) for cells in tables),
            *([r"\par\smallskip", *said] if said else []),
            "",
        ]
    )


def _tabular(cells: Cells) -> str:
    columns = "l" + "r" * (len(cells.header) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _row(cells.header),
            r"\midrule",
            *(_row(line) for line in cells.lines),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def escape(text: str) -> str:
    """Return `text` with the characters that LaTeX would read otherwise."""
    return "".join(_ESCAPES.get(character, character) for character in text)
