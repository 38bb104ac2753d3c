"""The data of a plan: which files there are, what trains, and what a test set takes out of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from gatera import tasks
from gatera.errors import InputError
from gatera.tasks.mixture import Mixture, items_sha256, load_mixture, questions_also_tested
from gatera.trial import Json

_Value = TypeVar("_Value")


class PlannedData:
    """Reads each file of a plan once; strict, or noting what is missing."""

    def __init__(self, root: Path | None, *, strict: bool) -> None:
        """Read under `root`; unless `strict`, what is missing is noted in place of an error."""
        self._root, self._strict = root, strict
        self.missing: list[str] = []
        self.notes: list[str] = []
        self._fingerprint = functools.cache(self._read_fingerprint)
        self._shared = functools.cache(self._read_shared)
        self._mixture = functools.cache(self._read_mixture)

    def fingerprints(self, data: Mapping[str, Json]) -> dict[str, dict[str, str | None]]:
        """Return task -> split -> hash of every file that the section `data` names."""
        files: dict[str, dict[str, str | None]] = {}
        for split, names in (("train", data.get("train_tasks", [])), ("test", data["tasks"])):
            for task in names:
                files.setdefault(task, {})[split] = self._fingerprint(task, split)
        return files

    def left_out(self, config: Mapping[str, Json]) -> tuple[str, ...]:
        """Return the content hashes of training items that a scored test set asks too."""
        data = config["data"]
        if "train_tasks" not in data:
            return ()
        shared = self._shared(tuple(data["train_tasks"]), tuple(data["tasks"]))
        return tuple(sorted({each for hashes in shared.values() for each in hashes}))

    def items_sha256(self, config: Mapping[str, Json]) -> str | None:
        """Return the hash of the items that train and validate; None where they are missing.

        Raises:
            InputError: there are fewer of them than validation or a batch needs.
        """
        found = self._mixture(
            tuple(config["data"]["train_tasks"]),
            config["train"]["validation_items"],
            self.left_out(config),
        )
        if found is None:
            return None
        sha256, items = found
        if items < (batch := config["train"]["batch_size"]):
            raise InputError(
                f"the training tasks have {items} items, fewer than train.batch_size={batch}; "
                "lower it or add tasks."
            )
        return sha256

    def _read_fingerprint(self, task: str, split: str) -> str | None:
        """Return the hash of a split; where strict, only of one whose every record can be used."""

        def read() -> str:
            if self._strict:
                tasks.load(task, split, self._root)
            return tasks.fingerprint(task, split, self._root)

        return self._or_missing(read, None)

    def _read_shared(
        self, train_tasks: tuple[str, ...], scored: tuple[str, ...]
    ) -> Mapping[str, list[str]]:
        shared: dict[str, list[str]] = self._or_missing(
            lambda: questions_also_tested(train_tasks, scored, self._root), {}
        )
        self.notes += [
            f"training items dropped because they stand in the test set of {task} too: "
            f"{len(hashes)}"
            for task, hashes in shared.items()
        ]
        return shared

    def _read_mixture(
        self, train_tasks: tuple[str, ...], validation_items: int, left_out: tuple[str, ...]
    ) -> tuple[str, int] | None:
        def read() -> Mixture:
            return load_mixture(train_tasks, validation_items, self._root, left_out)

        if any(self._fingerprint(task, "train") is None for task in train_tasks):
            return None  # which is noted already
        mixture = read()  # too few items for what is asked is an error, strict or not
        return items_sha256(mixture), len(mixture.train)

    def _or_missing(self, read: Callable[[], _Value], otherwise: _Value) -> _Value:
        try:
            return read()
        except InputError as error:
            if self._strict:
                raise
            if str(error) not in self.missing:
                self.missing.append(str(error))
            return otherwise
