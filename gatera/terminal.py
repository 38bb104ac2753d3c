"""Text for people: tables that fit a terminal, plain lines where there is none."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence

_UNBOUNDED = 10_000  # columns of what is no terminal


def table_lines(rows: Iterable[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Return the lines of a table without rules.

    In a terminal its last column is folded to what is left of the width; elsewhere a row is a line.

    Args:
        rows: The cells of each row.
        right: The columns that are aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for number, row in enumerate(rows := list(rows)):
        for column in range(len(row)) if number == 0 else ():
            last = column == len(row) - 1
            table.add_column(
                justify="right" if column in right else "left", no_wrap=not last, overflow="fold"
            )
        table.add_row(*map(Text, row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNBOUNDED
    drawn = io.StringIO()
    # A notebook would show it in the cell in place of handing it over.
    Console(file=drawn, width=width, color_system=None, force_jupyter=False).print(table)
    return [line.rstrip() for line in drawn.getvalue().splitlines()]
