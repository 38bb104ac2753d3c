"""A report in a notebook's cell: findings, table and differences, as HTML that needs nothing."""

from __future__ import annotations

import base64
import io
from html import escape

from gatera.reports.endpoints import ENDPOINTS
from gatera.reports.forms.cells import Cells, compact_cells, contrast_cells
from gatera.reports.forms.figures import draw_differences
from gatera.reports.forms.findings import findings
from gatera.reports.pages.rendering import with_marks
from gatera.reports.tables import Table


def html(table: Table) -> str:
    """Return what a notebook shows of a report."""
    record = table.record
    shown = [contrast_cells(table)] if table.contrasts else []
    return "\n".join(
        [
            f"<h3>{escape(record.study)} at scale {escape(record.scale)}</h3>",
            *([f"<p>{escape(record.title)}</p>"] if record.title else []),
            "<ul>",
            *(f"<li>{with_marks(sentence)}</li>" for sentence in findings(table)),
            "</ul>",
            *(_table(cells) for cells in (*shown, compact_cells(table))),
            *([_differences(table)] if table.tested else []),
        ]
    )


def _table(cells: Cells) -> str:
    def row(tag: str, words: list[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(word)}</{tag}>' for word in words)}</tr>"

    body = "".join(row("td", list(line)) for line in cells.lines)
    return f"<table><thead>{row('th', list(cells.header))}</thead><tbody>{body}</tbody></table>"


def _differences(table: Table) -> str:
    unit = ENDPOINTS[table.record.endpoint].unit
    buffer = io.BytesIO()
    draw_differences(table.tested, f"difference, {unit} of the average").savefig(
        buffer, format="png", dpi=100
    )
    image = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="differences with their intervals" src="data:image/png;base64,{image}">'
