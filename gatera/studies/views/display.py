"""Progress of a run on stderr: one line a worker with its step, one for the whole with an ETA."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Self, TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gatera.studies.planning.plan import Plan
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
    """Shows snapshots; redraws in a terminal, prints now and then elsewhere.

    A context: what was drawn last is left standing when it ends.
    """

    def __init__(self, plan: Plan, store: Path, stream: TextIO) -> None:
        """Open with the plan: variants × seeds, and where results go."""
        self._console = _Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None
        self._printed_at = 0.0
        self._printed_done = -1
        seeds = sorted({trial.seed for trial in plan.trials if not trial.is_frozen})
        tuning = f", after {plan.tuning.total} tuning trials" if plan.tuning is not None else ""
        self._print(
            f"{plan.id}: {len(plan.changes)} variants x {max(1, len(seeds))} seeds, "
            f"{len(plan.trials)} trials (frozen is one){tuning}; store {store}"
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show where each worker and the whole stand."""
        if self._live is not None:
            self._live.update(self._drawn(snapshot), refresh=True)
        else:
            self._print_now_and_then(snapshot)

    def say(self, line: str) -> None:
        """Say a line that stays, above what is drawn over."""
        self._print(f"gatera: {line}")

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
        self._console.file.flush()

    def _drawn(self, snapshot: Snapshot) -> Table:
        """Return as many lines as the terminal has: of the workers the last ones."""
        counts = snapshot.counts
        drawn = Table.grid(expand=True)
        for line in worker_lines(snapshot)[-max(1, self._console.height - 3) :]:
            drawn.add_row(Text(line, no_wrap=True, overflow="ellipsis"))
        drawn.add_row(ProgressBar(max(1, counts["planned"]), counts["done"]))
        drawn.add_row(Text(whole_line(snapshot), no_wrap=True, overflow="ellipsis"))
        return drawn

    def _print_now_and_then(self, snapshot: Snapshot) -> None:
        done, now = snapshot.counts["done"], time.monotonic()
        if done == self._printed_done and now - self._printed_at < _PLAIN_SECONDS:
            return
        self._printed_done, self._printed_at = done, now
        for line in (*worker_lines(snapshot), whole_line(snapshot)):
            self._print(f"  {line}")
