"""Writing what gates do: a page, a short text and two figures, into one folder."""

from __future__ import annotations

from pathlib import Path

from gatera.reports.gates.effects import Judged
from gatera.reports.gates.maps import draw_by_layer, draw_map
from gatera.reports.gates.text import COUNTED, PAPER, findings, markdown
from gatera.reports.pages.gates import gates_page

_DPI = 150
_METADATA = {"Software": None}  # no version in the file: the same bytes everywhere


def write_gates(judged: Judged, plan_id: str, title: str, folder: Path) -> tuple[Path, ...]:
    """Write `<plan id>.gates.html`, `.gates.md` and `figures/<plan id>.gates_*.png`.

    Args:
        judged: The gates of rows.
        plan_id: What the files are called after.
        title: Heading of page and text.
        folder: Where the files go; made where it does not exist.

    Returns the files, the page first.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figures = []
    for name, figure in (
        ("gates_map", draw_map(judged)),
        ("gates_by_layer", draw_by_layer(judged)),
    ):
        path = folder / "figures" / f"{plan_id}.{name}.png"
        path.unlink(missing_ok=True)  # of another time, when there was something to draw
        if figure is not None:
            figure.savefig(path, dpi=_DPI, metadata=_METADATA)
            figures.append(path)
    page, text = folder / f"{plan_id}.gates.html", folder / f"{plan_id}.gates.md"
    shown = gates_page(title, judged.rows, paper=PAPER, sentences=findings(judged), counted=COUNTED)
    page.write_text(shown, encoding="utf-8")
    addresses = [f"figures/{path.name}" for path in figures]
    text.write_text(markdown(judged, title, page.name, addresses), encoding="utf-8")
    return (page, text, *figures)
