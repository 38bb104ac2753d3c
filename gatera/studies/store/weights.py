"""Trained weights in a store: which attempt holds those of a training key, and who makes them.

    trained/<training key>.json          which attempt holds the weights, and what training measured
    trained/<training key>.by.<n>        who was the n-th to train them: a trial's key and attempt
    scored/<training key>/<key>          a trial that was scored with these weights

Two trials of one training key never train at once: the right to train is that of the newest `by`
file, as long as the attempt that it names lives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from gatera.studies.store.whole_files import (
    file_sha256,
    link_whole,
    read_json,
    set_aside,
    signature,
)
from gatera.training.attempt_files import ADAPTER_FOLDER, sha256_or_none, sync_to_disk
from gatera.training.provenance.code import training_code
from gatera.trial import Trained, Trial


class Weights:
    """The trained weights of one store."""

    def __init__(
        self,
        folder: Path,
        attempt_folder: Callable[[str, int], Path],
        is_live: Callable[[str, int], bool],
    ) -> None:
        """Keep records under `folder`; attempts are found, and asked whether they live, by key."""
        self._trained, self._scored = folder / "trained", folder / "scored"
        self._attempt_folder, self._is_live = attempt_folder, is_live
        self._seen: dict[str, tuple[object, Trained | None]] = {}  # by training key

    def of(self, trial: Trial) -> Trained | None:
        """Return the weights that a trial can be scored with: whole, and by today's code."""
        if trial.is_frozen or trial.is_tuning:
            return None
        found = self.recorded(trial.training_key)
        return found if found is not None and is_current(found, trial) else None

    def recorded(self, training_key: str) -> Trained | None:
        """Return the weights of a training key, by any code; None where none are whole."""
        path = self._path(training_key)
        seen = self._seen.get(training_key)
        marks = self._marks(path, seen[1] if seen is not None else None)
        if seen is None or seen[0] != marks:
            found = self._read(path)
            seen = self._seen[training_key] = (self._marks(path, found), found)
        return seen[1]

    def maker(self, training_key: str) -> tuple[str, int] | None:
        """Return (key, attempt) of the one whose weights count, whole or not; None where none."""
        found = read_json(self._path(training_key))
        return (str(found["key"]), int(found["attempt"])) if isinstance(found, dict) else None

    def _read(self, path: Path) -> Trained | None:
        try:
            found = Trained.from_json(read_json(path) or {})
        except TypeError:
            return None
        folder = self.adapter_folder(found)
        whole = all(
            signature(folder / name) is not None and file_sha256(folder / name) == sha256
            for name, sha256 in found.adapter_sha256.items()
        )
        return found if whole and found.adapter_sha256 else None

    def _marks(self, path: Path, found: Trained | None) -> tuple[object, ...]:
        """Return what changes when the record, or a file of the adapter it names, does."""
        files = [] if found is None else sorted(found.adapter_sha256)
        folder = path.parent if found is None else self.adapter_folder(found)
        return (signature(path), *(signature(folder / name) for name in files))

    def holders(self) -> set[tuple[str, int]]:
        """Return (key, attempt) of the attempts that hold the weights of a training key."""
        found = (read_json(path) for path in self._trained.glob("*.json"))
        return {(each["key"], each["attempt"]) for each in found if isinstance(each, dict)}

    def adapter_folder(self, trained: Trained) -> Path:
        """Return the folder of the adapter, as PEFT saved it."""
        return self._attempt_folder(trained.key, trained.attempt) / ADAPTER_FOLDER

    def keep(self, trained: Trained, trial: Trial) -> Trained:
        """Record the weights of an attempt; return those that count: the first whole ones."""
        folder = self.adapter_folder(trained)
        for path in (*sorted(folder.glob("*")), folder, folder.parent):
            sync_to_disk(path)
        path = self._path(trained.training_key)
        while not link_whole(path, _text(trained)):
            found = self.of(trial)
            if found is not None:
                return found
            if path.exists():  # damaged, or made by other code
                set_aside(path)
        return trained

    def adopt(self, trained: Trained) -> Trained | None:
        """Record weights that another store made and whose files are here; None where they are not.

        Those that were recorded before count on.
        """
        folder = self.adapter_folder(trained)
        files = {name: folder / name for name in trained.adapter_sha256}
        if not all(sha256_or_none(files[n]) == sha for n, sha in trained.adapter_sha256.items()):
            return None
        path = self._path(trained.training_key)
        while not link_whole(path, _text(trained)) and self.recorded(trained.training_key) is None:
            set_aside(path)  # damaged
        return self.recorded(trained.training_key)

    # Who trains

    def makers(self, training_key: str) -> list[tuple[str, int]]:
        """Return (key, attempt) of each that had the right to train these weights, in order."""
        found: list[tuple[str, int]] = []
        while (path := self._maker_path(training_key, len(found) + 1)).exists():  # made in order
            value = read_json(path)
            value = value if isinstance(value, dict) else {}
            found.append((str(value.get("key")), int(value.get("attempt", 0))))
        return found

    def _maker_path(self, training_key: str, number: int) -> Path:
        return self._trained / f"{training_key}.by.{number}"

    def are_made_by_another(self, trial: Trial) -> bool:
        """Return whether a live attempt of another trial trains the weights that `trial` needs."""
        makers = self.makers(trial.training_key)
        return bool(makers) and makers[-1][0] != trial.key and self._is_live(*makers[-1])

    def begin(self, trial: Trial, attempt: int) -> bool:
        """Take the right to train for an attempt; False where a live attempt has it."""
        text = json.dumps({"key": trial.key, "attempt": attempt}) + "\n"
        while not self.are_made_by_another(trial):
            number = len(self.makers(trial.training_key)) + 1
            if link_whole(self._maker_path(trial.training_key, number), text):
                return True
        return False

    # Who was scored

    def note_scored(self, training_key: str, key: str) -> None:
        """Note that a trial was scored with the weights of a training key."""
        path = self._scored / training_key / key
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    def scored_with(self, training_key: str) -> list[str]:
        """Return the keys of the trials that were scored with the weights of a training key."""
        try:
            return sorted(os.listdir(self._scored / training_key))
        except FileNotFoundError:
            return []

    def _path(self, training_key: str) -> Path:
        return self._trained / f"{training_key}.json"


def _text(trained: Trained) -> str:
    return json.dumps(trained.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"


def is_current(trained: Trained, trial: Trial) -> bool:
    """Return whether weights were made by today's code."""
    return bool(trained.provenance.get("code") == training_code(trial.config))
