"""What a trial has answered so far, batch by batch: scoring goes on from it after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatera.training.files import ANSWERS_FILE


def weights_identity(trial: str, weights: Mapping[str, Tensor]) -> str:
    """Return a hash of a trial and of its trained weights: other weights give other answers.

    Args:
        trial: The trial's key and the code's hash.
        weights: Trained parameters by name, on the CPU.
    """
    digest = hashlib.sha256(trial.encode())
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class AnswerLog:
    """Keeps the outputs of an attempt in `answers.jsonl`, and knows those of earlier ones."""

    def __init__(self, folder: Path, earlier: Sequence[Path], identity: str) -> None:
        """Append to the file in `folder`; take up what `earlier` attempts answered.

        Args:
            folder: The attempt's.
            earlier: Folders of earlier attempts.
            identity: What tells answers of these weights from those of others.
        """
        self._identity = identity
        self._known: dict[str, dict[int, str]] = {}  # task -> place -> output
        for path in (*earlier, folder):
            for line in _lines(path / ANSWERS_FILE):
                self._take(line)
        self._handle = (folder / ANSWERS_FILE).open("a", encoding="utf-8")

    def known(self, task: str) -> Mapping[int, str]:
        """Return place -> output of what was answered of a task."""
        return self._known.get(task, {})

    def write(self, task: str, outputs: Mapping[int, str]) -> None:
        """Append one batch; a hash tells a line that was torn or changed."""
        content = {"of": self._identity, "task": task, "outputs": outputs}
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
        if sha256 == _sha256(value) and value["of"] == self._identity:
            found = {int(place): text for place, text in value["outputs"].items()}
            self._known.setdefault(value["task"], {}).update(found)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
