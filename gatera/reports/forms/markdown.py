"""A report as GitHub markdown: its sections, and figures where they belong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gatera.reports.forms.cells import Cells
from gatera.reports.forms.figures import figure_name
from gatera.reports.forms.sections import (
    Drawn,
    Listing,
    Part,
    Section,
    answer,
    introduction,
    whole,
)
from gatera.reports.tables import Table


def markdown(
    table: Table,
    *,
    measured: bool = True,
    figures: Sequence[str] = (),
    page: str | None = None,
    gates: str | None = None,
) -> str:
    """Return the whole report as GitHub markdown.

    Args:
        table: What is reported.
        measured: Whether to print what a clock or a host says.
        figures: Paths of the figures, as seen from the report.
        page: Path of the page for a browser, likewise.
        gates: Path of what gates do token by token, likewise.
    """
    record = table.record
    images = {figure_name(path): _image(path, record.study) for path in figures}
    blocks = [
        f"# {record.study} at scale {record.scale}",
        *introduction(record),
        *([_PAGE.format(page=page)] if page is not None else []),
        *([_GATES.format(gates=gates)] if gates is not None else []),
        *(
            block
            for section in whole(table, measured=measured, figures=images)
            for block in _blocks(section, images)
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def summary(table: Table) -> list[str]:
    """Return what answers the study's question: the findings and the compact table, in blocks."""
    return list(_blocks(answer(table), {}))


_PAGE = (
    "To explore in a browser, with every answer that rows differ in: [{page}]({page}) (download "
    "it and open it)."
)
_GATES = "What the gates do, token by token: [{gates}]({gates})."


def _blocks(section: Section, images: dict[str, str]) -> Iterator[str]:
    yield f"## {section.title}"
    yield from (block for part in section.parts if (block := _block(part, images)))


def _block(part: Part, images: dict[str, str]) -> str:
    if isinstance(part, Cells):
        return _table(part)
    if isinstance(part, Listing):
        return _list(part)
    if isinstance(part, Drawn):
        return images.get(part.name, "")
    return part


def _image(path: str, study: str) -> str:
    title = figure_name(path).replace("_", " ").capitalize()
    return f"![{title} of {study}]({path})"


def _list(listing: Listing) -> str:
    lines = []
    for each in listing.lines:
        head, beneath = (each, ()) if isinstance(each, str) else each
        lines += [f"- {head}", *(f"  - {line}" for line in beneath)]
    return "\n".join(lines)


def _table(cells: Cells) -> str:
    rule = ["---"] + ["---:"] * (len(cells.header) - 1)
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (cells.header, *cells.lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
