"""Progress as a terminal shows it."""

import fcntl
import io
import os
import pty
import re
import struct
import termios

import pytest

from gatera.studies.store.snapshot import take_snapshot
from gatera.studies.views.display import Display

COLUMNS, ROWS = 40, 5
MARK = "\a"


@pytest.fixture
def terminal():
    """A small terminal: the stream to it, and what returns all written since it was last asked."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with os.fdopen(theirs, "w") as stream:

        def written():
            # A terminal hands on in parts, and later: only a mark at the end tells that all came.
            print(MARK, end="", file=stream, flush=True)
            text = ""
            while not text.endswith(MARK):
                text += os.read(ours, 65536).decode()
            return text.removesuffix(MARK)

        yield stream, written
    os.close(ours)


def screen(written):
    """Return the rows of a terminal after what was written to it, without colours."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\x1b[2K":
            rows[row] = ""
        elif part.startswith("\x1b"):
            assert part[-1] in "Am", part
            row -= int(part[2:-1]) if part.endswith("A") else 0
        elif part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        else:
            assert column + len(part) <= COLUMNS, "a line goes on in the next one"
            rows[row] = rows[row][:column].ljust(column) + part
            column += len(part)
    return rows


BAR = "━" * COLUMNS


def test_lines_longer_than_the_terminal_are_drawn_over_whole(store, plan, terminal):
    stream, written = terminal
    claims = [store.claim(t.key, {"host": "h" * 60, "pid": 7}) for t in plan.trials[:2]]
    display = Display(plan, "store", stream)
    above = written()
    assert "10 trials (frozen is one); store store" in above
    text = ""
    with display:
        for _ in range(3):
            display.show(take_snapshot(store, plan))
            text += written()
        rows = screen(text)
        assert rows == [*["h" * 39 + "…"] * 2, BAR, "0 of 10 trials done, 2 running, 8 waiti…"]
        display.say("a line that stays")
        display.show(take_snapshot(store, plan))
        text += written()
        assert screen(text) == ["gatera: a line that stays", *rows]
    print("after", file=stream)
    assert screen(text + written()) == ["gatera: a line that stays", *rows, "after", ""]
    for claim in claims:
        claim.release()


def test_no_more_lines_are_drawn_than_the_terminal_has(store, plan, terminal):
    stream, written = terminal
    claims = [store.claim(t.key, {"host": "h", "pid": n}) for n, t in enumerate(plan.trials)]
    with Display(plan, "store", stream) as display:
        written()
        text = ""
        for _ in range(2):
            display.show(take_snapshot(store, plan))
            text += written()
        *lines, bar, last = screen(text)
    assert [line[:4] for line in lines] == ["h:8 ", "h:9 "]
    assert bar == BAR
    assert last == "0 of 10 trials done, 10 running, ETA no…"
    for claim in claims:
        claim.release()


def test_the_cursor_is_left_alone(store, plan, terminal):
    stream, written = terminal
    with Display(plan, "store", stream) as display:
        display.show(take_snapshot(store, plan))
    assert "\x1b[?25" not in written()


def test_what_is_no_terminal_gets_plain_lines(store, plan):
    stream = io.StringIO()
    with Display(plan, "[b]store[/b]", stream) as display:
        display.show(take_snapshot(store, plan))
        display.show(take_snapshot(store, plan))
    assert stream.getvalue().splitlines() == [
        "made_up.tiny: 4 variants x 3 seeds, 10 trials (frozen is one); store [b]store[/b]",
        "  0 of 10 trials done, 10 waiting, ETA not known yet",
    ]


def test_a_terminal_that_does_not_say_its_width_is_drawn_on_all_the_same(store, plan):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Display(plan, store.folder, stream) as display:
        display.show(take_snapshot(store, plan))
    assert "0 of 10 trials done, 10 waiting, ETA not known yet" in stream.getvalue()
