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
from gatera.training.evaluation.scoring import Known


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
        self._outputs: dict[str, dict[int, str]] = {}  # task -> place -> output
        # task -> place -> log-likelihood of each option
        self._likelihoods: dict[str, dict[int, list[float]]] = {}
        for path in (*earlier, folder):
            for line in lines_of(path / ANSWERS_FILE):
                self._take(line)
        self._handle = (folder / ANSWERS_FILE).open("a", encoding="utf-8")

    def known(self, task: str) -> Known:
        """Return what was found of a task."""
        return Known(self._outputs.get(task, {}), self._likelihoods.get(task, {}))

    def write(self, task: str, found: Known) -> None:
        """Append one batch; a hash tells a line that was torn or changed."""
        content: dict[str, Any] = {"of": self._identities[task], "task": task}
        for name, by_place in (("outputs", found.outputs), ("likelihoods", found.likelihoods)):
            if by_place:  # places as JSON reads them again
                content[name] = {str(place): value for place, value in by_place.items()}
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
        if sha256 != _sha256(value) or value["of"] != self._identities.get(value["task"]):
            return
        for name, known in (("outputs", self._outputs), ("likelihoods", self._likelihoods)):
            found = {int(place): each for place, each in value.get(name, {}).items()}
            known.setdefault(value["task"], {}).update(found)


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file, none where it is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
