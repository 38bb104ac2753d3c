"""A table as LaTeX, with booktabs rules and its footnotes beneath."""

from __future__ import annotations

from collections.abc import Sequence

from gatera.reports.forms.cells import accuracy_cells
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
    """Return the main table as a tabular, followed by the reasons of its dashes."""
    cells = accuracy_cells(table, measured=False)
    columns = "l" + "r" * (len(cells.header) - 1)
    notes = [rf"{{\footnotesize {escape(note)}.\par}}" for note in footnotes(table)]
    return "\n".join(
        [
            f"% {table.record.study} at scale {table.record.scale}; needs \\usepackage{{booktabs}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _row(cells.header),
            r"\midrule",
            *(_row(line) for line in cells.lines),
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\smallskip", *notes] if notes else []),
            "",
        ]
    )


def _row(cells: Sequence[str]) -> str:
    return " & ".join(escape(cell) for cell in cells) + r" \\"


def escape(text: str) -> str:
    """Return `text` with the characters that LaTeX would read otherwise."""
    return "".join(_ESCAPES.get(character, character) for character in text)
