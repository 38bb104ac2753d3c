"""What became of an attempt: one record, written once, by the attempt or by whoever finds it dead.

Limits of attempts, forecasts, tables and progress read these records and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gatera.studies.store.whole_files import link_whole, read_json
from gatera.training.attempt_files import ANSWERS_FILE, METRICS_FILE, checkpointed_steps
from gatera.trial import Json

RECORD_FILE = "ended.json"

# Attempts that may fail before a trial is left alone, by how they ended. Other ends count for
# nothing: "finished", "pruned", "interrupted" (asked to end, its work kept) and "no_space" (the
# disk is full). Where memory ran out, the next attempt takes half as much at once.
ATTEMPT_LIMITS = {"input": 1, "bug": 2, "not_finite": 2, "out_of_memory": 5, "killed": 5}

_LOG_TAIL_LINES = 15
_LAST_LINES_BYTES = 8192  # holds a few lines of metrics.jsonl


@dataclass(frozen=True)
class AttemptRecord:
    """How one attempt ended, and what it added to those before it."""

    attempt: int
    ended: str  # finished, pruned, interrupted, no_space, or one of ATTEMPT_LIMITS
    seconds: float = 0.0  # of its process; of a killed one, up to its last line of metrics.jsonl
    steps: int = 0  # optimizer steps that it saved beyond those before it
    answers: int = 0  # test items that it answered beyond those before it
    message: str = ""  # one line
    log_tail: str = ""  # the last lines of its log

    @property
    def failed(self) -> bool:
        """Whether it counts against its trial: not where it was killed and had advanced."""
        advanced = self.steps > 0 or self.answers > 0
        return self.ended in ATTEMPT_LIMITS and not (self.ended == "killed" and advanced)


def write_record(folder: Path, record: AttemptRecord) -> None:
    """Record how the attempt in `folder` ended, where nobody has."""
    link_whole(folder / RECORD_FILE, json.dumps(asdict(record), indent=1) + "\n")


def read_record(folder: Path) -> AttemptRecord | None:
    """Return how the attempt in `folder` ended; None where nobody has said."""
    fields = read_json(folder / RECORD_FILE)
    if not isinstance(fields, dict):
        return None
    try:
        return AttemptRecord(**fields)
    except TypeError:
        return None


def record_of(
    folder: Path, attempt: int, ended: str, *, earlier: Sequence[Path], **fields: Json
) -> AttemptRecord:
    """Return the record of an attempt from what it left in `folder`.

    Args:
        folder: The attempt's.
        attempt: Its number.
        ended: How it ended.
        earlier: Folders of the attempts before it, whose work it could go on from.
        fields: What else is known of it; its seconds are those of metrics.jsonl where they are not.
    """
    fields.setdefault("seconds", _last_seconds(folder / METRICS_FILE))
    before = max((checkpointed_steps(each) for each in earlier), default=0)
    steps = max(0, checkpointed_steps(folder) - before)
    answers = len(_answered([folder]) - _answered(earlier))
    return AttemptRecord(attempt, ended, steps=steps, answers=answers, **fields)


def log_tail(folder: Path) -> str:
    """Return the last lines of an attempt's log, "" where there is none."""
    try:
        lines = (folder / "log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_LOG_TAIL_LINES:])


def metrics(folder: Path) -> list[dict[str, Json]]:
    """Return the whole lines of an attempt's metrics.jsonl.

    A line that cannot be read, as a crash of the machine may leave one, is an empty object.
    """
    return _objects_in(folder / METRICS_FILE)


def last_metrics(folder: Path) -> Json:
    """Return the last whole line of an attempt's metrics.jsonl; None where there is none."""
    try:
        with (folder / METRICS_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_LINES_BYTES))
            tail = file.read().decode(errors="replace")
    except OSError:
        return None
    lines = _json_objects(tail)
    return lines[-1] if lines and lines[-1] else None


def _json_objects(text: str) -> list[dict[str, Json]]:
    """Return the objects that the whole lines of `text` hold, {} for one that cannot be read."""
    return [_object(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _object(line: str) -> dict[str, Json]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _objects_in(path: Path) -> list[dict[str, Json]]:
    try:
        return _json_objects(path.read_text(errors="replace"))
    except OSError:
        return []


def _last_seconds(path: Path) -> float:
    seconds = [line.get("attempt_seconds") for line in _objects_in(path)]
    return max((float(each) for each in seconds if isinstance(each, int | float)), default=0.0)


def _answered(folders: Iterable[Path]) -> set[tuple[Json, str, str]]:
    """Return what was answered: by which weights and how, of which task, at which place."""
    return {found for folder in folders for found in _answers_in(folder / ANSWERS_FILE)}


def _answers_in(path: Path) -> Iterator[tuple[Json, str, str]]:
    for line in _objects_in(path):
        for kind in ("outputs", "likelihoods"):
            if isinstance(found := line.get(kind), dict):
                task = f"{line.get('task')} {kind}"
                yield from ((line.get("of"), task, place) for place in found)
