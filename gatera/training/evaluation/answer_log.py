"""What a trial has answered so far, batch by batch: scoring goes on from it after a kill.

Other trials of the same weights use the answers too, where task, data, decoding and code are the
same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gatera.training.attempt_files import ANSWERS_FILE


class AnswerLog:
    """Keeps the outputs of an attempt in `answers.jsonl`, and knows those of earlier ones."""

    def __init__(
        self, folder: Path, earlier: Sequence[Path], identities: Mapping[str, str]
    ) -> None:
        """Append to the file in `folder`; take up what `earlier` attempts answered.

        Args:
            folder: The attempt's.
            earlier: Folders of earlier attempts.
            identities: What tells a task's answers by these weights, data, settings and code from
                those by others, by task.
        """
        self._identities = identities
        self._known: dict[str, dict[int, str]] = {}  # task -> place -> output
        for path in (*earlier, folder):
            for line in lines_of(path / ANSWERS_FILE):
                self._take(line)
        self._handle = (folder / ANSWERS_FILE).open("a", encoding="utf-8")

    def known(self, task: str) -> Mapping[int, str]:
        """Return place -> output of what was answered of a task."""
        return self._known.get(task, {})

    def write(self, task: str, outputs: Mapping[int, str]) -> None:
        """Append one batch; a hash tells a line that was torn or changed."""
        by_place = {str(place): text for place, text in outputs.items()}  # as JSON reads it again
        content = {"of": self._identities[task], "task": task, "outputs": by_place}
        self._handle.write(json.dumps({**content, "sha256": _sha256(content)}) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def _take(self, line: str) -> None:
        try:
            value = json.loads(line)
            sha256 = value.pop("sha256")
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if sha256 == _sha256(value) and value["of"] == self._identities.get(value["task"]):
            found = {int(place): text for place, text in value["outputs"].items()}
            self._known.setdefault(value["task"], {}).update(found)


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file, none where it is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
