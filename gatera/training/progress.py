"""The file that others follow a trial by: one JSON object a line."""

from __future__ import annotations

import json
import time
from pathlib import Path


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
        """Append one line: phase (train, validate, test), step, seconds since the start, values."""
        line = {"phase": phase, "step": step, "max_steps": self._max_steps, **values}
        line["seconds"] = round(time.monotonic() - self._began, 3)
        self._handle.write(json.dumps(line) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()
