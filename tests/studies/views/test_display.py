"""Progress as a terminal shows it."""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import types

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
    display = Display(["what is done", "where it goes"], stream)
    assert written().splitlines() == ["what is done", "where it goes"]
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
    with Display([], stream) as display:
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
    with Display([], stream) as display:
        display.show(take_snapshot(store, plan))
    assert "\x1b[?25" not in written()


def test_what_is_no_terminal_gets_plain_lines(store, plan):
    stream = io.StringIO()
    with Display(["[b]store[/b]"], stream) as display:
        display.show(take_snapshot(store, plan))
        display.show(take_snapshot(store, plan))
    assert stream.getvalue().splitlines() == [
        "[b]store[/b]",
        "  0 of 10 trials done, 10 waiting, ETA not known yet",
    ]


def test_a_terminal_that_does_not_say_its_width_is_drawn_on_all_the_same(store, plan):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Display([], stream) as display:
        display.show(take_snapshot(store, plan))
    assert "0 of 10 trials done, 10 waiting, ETA not known yet" in stream.getvalue()


class Kernel:
    """A notebook's shell: keeps what each output shows, and how often it was sent."""

    def __init__(self):
        self.kernel, self.display_pub = object(), self
        self.outputs, self.sent = {}, 0

    def publish(self, data, metadata=None, *, transient, update):
        assert update == (transient["display_id"] in self.outputs)
        self.outputs[transient["display_id"]] = data
        self.sent += 1


def in_shell(monkeypatch, shell):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_a_notebook_shows_one_bar_below_its_cell(store, plan, monkeypatch):
    in_shell(monkeypatch, kernel := Kernel())
    stream = io.StringIO()
    with Display(["what is done"], stream) as display:
        display.show(take_snapshot(store, plan))
        display.show(take_snapshot(store, plan))
        assert kernel.sent == 1
        claim = store.claim(plan.trials[0].key, {"host": "<h>", "pid": 7})
        display.show(take_snapshot(store, plan))
        display.say("a line that stays")
        claim.release()
    (shown,) = kernel.outputs.values()
    assert shown == {
        "text/html": '<progress max="10" value="0"></progress> 0 of 10 trials done, 1 running, '
        "9 waiting, ETA not known yet<br><small>&lt;h&gt;:7  frozen seed 0: starting</small>",
        "text/plain": "0 of 10 trials done, 1 running, 9 waiting, ETA not known yet",
    }
    assert stream.getvalue().splitlines() == ["what is done", "gatera: a line that stays"]


def test_ipython_in_a_terminal_is_no_notebook(store, plan, monkeypatch):
    in_shell(monkeypatch, object())
    stream = io.StringIO()
    with Display([], stream) as display:
        display.show(take_snapshot(store, plan))
    assert "0 of 10 trials done" in stream.getvalue()
