"""The file that others follow a trial by: one JSON object a line."""

from __future__ import annotations

import json
import time
from pathlib import Path

_process_began = time.monotonic()  # moved to the attempt's start where a fork has this loaded


def begin_attempt() -> None:
    """Count an attempt's seconds from now."""
    global _process_began
    _process_began = time.monotonic()


def seconds_of_attempt() -> float:
    """Return the seconds since the attempt began."""
    return time.monotonic() - _process_began


class PrunedError(Exception):
    """A trial was told to stop because its course promises too little."""


class MetricsLog:
    """Appends lines to `metrics.jsonl`; each is complete on disk before the next is begun."""

    def __init__(self, path: Path, max_steps: int) -> None:
        """Append to `path`; `max_steps` stands in every line."""
        self._handle = path.open("a", encoding="utf-8")
        self._max_steps = max_steps
        self._began = time.monotonic()

    def write(self, phase: str, step: int, values: dict[str, float | int | str]) -> None:
        """Append one line: phase (train, validate, test), step, values, and how long it took.

        `seconds` count since this log was opened, `attempt_seconds` since its process began.
        """
        line = {"phase": phase, "step": step, "max_steps": self._max_steps, **values}
        line["seconds"] = round(time.monotonic() - self._began, 3)
        line["attempt_seconds"] = round(seconds_of_attempt(), 3)
        self._handle.write(json.dumps(line) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()
