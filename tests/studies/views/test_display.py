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
    """Return the rows of a terminal after what was written to it."""
    rows, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[A-Z]|\n|[^\x1b\n]+", written.replace("\r", "")):
        if part == "\x1b[2K":
            rows[row] = ""
        elif part == "\x1b[0J":
            rows = [*rows[:row], ""]
        elif part.startswith("\x1b"):
            assert part.endswith("F"), part
            row -= int(part[2:-1])
        elif part == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        else:
            cut = [part[at : at + COLUMNS] for at in range(0, len(part), COLUMNS)]
            rows[row : row + len(cut)] = cut
            row += len(cut) - 1
    return rows


def test_lines_longer_than_the_terminal_are_drawn_over_whole(store, plan, terminal):
    stream, written = terminal
    claims = [store.claim(t.key, {"host": "h" * 60, "pid": 7}) for t in plan.trials[:2]]
    display = Display(plan, store.folder, stream)
    above = len(screen(written())) - 1
    text = ""
    for _ in range(3):
        display.show(take_snapshot(store, plan))
        text += written()
    rows = screen(text)
    assert above >= 1
    assert rows == ["h" * COLUMNS, "h" * COLUMNS, "0 of 10 trials done, 2 running, 8 waitin", ""]
    display.say("a line that stays")
    display.show(take_snapshot(store, plan))
    assert screen(text + written()) == ["gatera: a line that stays", *rows]
    for claim in claims:
        claim.release()


def test_no_more_lines_are_drawn_than_the_terminal_has(store, plan, terminal):
    stream, written = terminal
    claims = [store.claim(t.key, {"host": "h", "pid": n}) for n, t in enumerate(plan.trials)]
    display = Display(plan, store.folder, stream)
    written()
    text = ""
    for _ in range(2):
        display.show(take_snapshot(store, plan))
        text += written()
    *lines, last, after = screen(text)
    assert [line[:4] for line in lines] == ["h:7 ", "h:8 ", "h:9 "]
    assert last == "0 of 10 trials done, 10 running, ETA not"
    assert after == ""
    for claim in claims:
        claim.release()


def test_a_terminal_that_does_not_say_its_width_is_drawn_on_all_the_same(store, plan):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    Display(plan, store.folder, stream).show(take_snapshot(store, plan))
    assert "0 of 10 trials done, 10 waiting, ETA not known yet\n" in stream.getvalue()
