"""Tables for people: a line a row, and folded to a terminal's width where there is one."""

import os
import sys

import pytest

from gatera.terminal import table_lines

ROWS = [("a", "1", "x -> y"), ("longer", "1,234", " ".join(["words"] * 12) + " [b]end[/b]")]


def test_where_there_is_no_terminal_a_row_is_a_line():
    assert table_lines(ROWS, right={1}) == [
        "a           1  x -> y",
        f"longer  1,234  {ROWS[1][2]}",
    ]


@pytest.mark.parametrize("columns", [40, 60])
def test_in_a_terminal_the_last_column_is_folded(columns, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    lines = table_lines(ROWS, right={1})
    assert len(lines) > 2
    assert max(map(len, lines)) <= columns
    assert all(line.startswith(" " * 15) for line in lines[2:])
    assert " ".join(line[15:] for line in lines[1:]) == ROWS[1][2]
