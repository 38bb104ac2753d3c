"""Progress of a run: a bar with an ETA, and one line a worker with its step.

A terminal and a notebook draw it over again, in place; elsewhere lines are printed now and then.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterable
from html import escape
from typing import Any, Self, TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gatera.studies.store.snapshot import Snapshot
from gatera.studies.views.progress import whole_line, worker_lines

_PLAIN_SECONDS = 15.0  # between two looks where the lines cannot be drawn over


class _Console(Console):
    """As wide as its own stream; leaves the cursor alone: a killed run could not bring it back."""

    @property  # type: ignore[misc]  # which nobody sets
    def size(self) -> ConsoleDimensions:
        try:
            found = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):
            return super().size
        return ConsoleDimensions(found.columns or 80, found.lines or 24)

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Display:
    """Shows snapshots where a run was started.

    A context: what was drawn last is left standing when it ends.
    """

    def __init__(self, opening: Iterable[str], stream: TextIO) -> None:
        """Print the lines of `opening`; what follows them goes to `stream`, or into the cell."""
        self._console = _Console(
            file=stream, highlight=False, markup=False, emoji=False, force_jupyter=False
        )
        self._surface = _surface_of(self._console)
        for line in opening:
            _print(self._console, line)

    def __enter__(self) -> Self:
        self._surface.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self._surface.end()

    def show(self, snapshot: Snapshot) -> None:
        """Show where each worker and the whole stand."""
        self._surface.show(snapshot)

    def say(self, line: str) -> None:
        """Say a line that stays, above what is drawn over in a terminal."""
        _print(self._console, f"gatera: {line}")


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)
    console.file.flush()


class _Surface:
    """What snapshots are drawn on."""

    def begin(self) -> None:
        """Make ready to draw."""

    def show(self, snapshot: Snapshot) -> None:
        """Draw a snapshot, in place of the one before where that can be."""
        raise NotImplementedError

    def end(self) -> None:
        """Leave standing what was drawn last."""


def _surface_of(console: Console) -> _Surface:
    if (shell := _notebook()) is not None:
        return _Cell(shell)
    return _Terminal(console) if console.is_terminal else _Lines(console)


def _notebook() -> Any:
    """Return the shell of the notebook that this process is the kernel of; None elsewhere.

    IPython is no dependency: where it is not loaded, nobody works in a notebook.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None  # else it is a terminal


class _Terminal(_Surface):
    """Lines and a bar at the foot of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def begin(self) -> None:
        self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        self._live.update(self._drawn(snapshot), refresh=True)

    def end(self) -> None:
        self._live.stop()

    def _drawn(self, snapshot: Snapshot) -> Table:
        """Return as many lines as the terminal has: of the workers the last ones."""
        counts = snapshot.counts
        drawn = Table.grid(expand=True)
        for line in worker_lines(snapshot)[-max(1, self._console.height - 3) :]:
            drawn.add_row(Text(line, no_wrap=True, overflow="ellipsis"))
        drawn.add_row(ProgressBar(max(1, counts["planned"]), counts["done"]))
        drawn.add_row(Text(whole_line(snapshot), no_wrap=True, overflow="ellipsis"))
        return drawn


class _Cell(_Surface):
    """A bar and lines below a notebook's cell: one output, which is replaced."""

    def __init__(self, shell: Any) -> None:
        # Said of a bar of Optuna's that nobody sees.
        warnings.filterwarnings("ignore", message="IProgress not found")
        self._publisher = shell.display_pub
        self._id = f"gatera-progress-{os.getpid()}-{time.monotonic_ns()}"
        self._shown: str | None = None

    def show(self, snapshot: Snapshot) -> None:
        if (html := _html(snapshot)) == self._shown:
            return  # every half second: a notebook keeps what it is sent
        self._publisher.publish(
            {"text/html": html, "text/plain": whole_line(snapshot)},
            transient={"display_id": self._id},
            update=self._shown is not None,
        )
        self._shown = html


def _html(snapshot: Snapshot) -> str:
    counts = snapshot.counts
    bar = f'<progress max="{max(1, counts["planned"])}" value="{counts["done"]}"></progress>'
    workers = "".join(f"<br><small>{escape(line)}</small>" for line in worker_lines(snapshot))
    return f"{bar} {escape(whole_line(snapshot))}{workers}"


class _Lines(_Surface):
    """Plain lines, when another trial is done or some seconds have gone."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed_at = 0.0
        self._printed_done = -1

    def show(self, snapshot: Snapshot) -> None:
        done, now = snapshot.counts["done"], time.monotonic()
        if done == self._printed_done and now - self._printed_at < _PLAIN_SECONDS:
            return
        self._printed_done, self._printed_at = done, now
        for line in (*worker_lines(snapshot), whole_line(snapshot)):
            _print(self._console, f"  {line}")
