"""Progress of a run on stderr: one line a worker with its step, one for the whole with an ETA."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TextIO

from gatera.studies.plan.plan import Plan
from gatera.studies.store.snapshot import Snapshot
from gatera.studies.views.progress import whole_line, worker_lines

_PLAIN_SECONDS = 15.0  # between two looks where the lines cannot be drawn over


class Display:
    """Shows snapshots; redraws in a terminal, prints now and then elsewhere."""

    def __init__(self, plan: Plan, store: Path, stream: TextIO) -> None:
        """Open with the plan: variants × seeds, and where results go."""
        self._stream = stream
        self._redraws = stream.isatty()
        self._drawn = 0
        self._printed_at = 0.0
        self._printed_done = -1
        seeds = sorted({trial.seed for trial in plan.trials if not trial.is_frozen})
        tuning = f", after {plan.tuning.total} tuning trials" if plan.tuning is not None else ""
        print(
            f"{plan.stem}: {len(plan.changes)} variants x {max(1, len(seeds))} seeds, "
            f"{len(plan.trials)} trials (frozen is one){tuning}; store {store}",
            file=stream,
            flush=True,
        )

    def show(self, snapshot: Snapshot) -> None:
        """Show where each worker and the whole stand."""
        if self._redraws:
            self._redraw([*worker_lines(snapshot), whole_line(snapshot)])
        else:
            self._print_now_and_then(snapshot)

    def say(self, line: str) -> None:
        """Say a line that stays, above what is drawn over."""
        self._stream.write(f"{self._to_the_top()}\x1b[0J" if self._drawn else "")
        print(f"gatera: {line}", file=self._stream, flush=True)
        self._drawn = 0

    def end(self) -> None:
        """Leave the last lines standing."""
        self._drawn = 0

    def _redraw(self, lines: list[str]) -> None:
        # Of what does not fit, a part would be left standing when it is drawn over.
        columns, rows = self._size()
        lines = [line[:columns] for line in lines[-(rows - 1) :]]
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        self._stream.write(f"{self._to_the_top()}{body}\x1b[0J")
        self._stream.flush()
        self._drawn = len(lines)

    def _size(self) -> tuple[int, int]:
        """Return the terminal's columns and rows, which may change while we draw."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except OSError:
            size = os.terminal_size((0, 0))
        return size.columns or 80, max(2, size.lines or 24)

    def _to_the_top(self) -> str:
        """Return what moves to the first of the lines that stand."""
        return f"\x1b[{self._drawn}F" if self._drawn else ""

    def _print_now_and_then(self, snapshot: Snapshot) -> None:
        done, now = snapshot.counts["done"], time.monotonic()
        if done == self._printed_done and now - self._printed_at < _PLAIN_SECONDS:
            return
        self._printed_done, self._printed_at = done, now
        for line in (*worker_lines(snapshot), whole_line(snapshot)):
            print(f"  {line}", file=self._stream, flush=True)
