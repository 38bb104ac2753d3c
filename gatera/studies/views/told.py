"""What a view was told of a plan: a run that finds nothing new neither loads nor writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from gatera.studies.planning.plan import Plan
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import file_sha256, read_json, write_whole
from gatera.trial import Json, Trial, sha256_of


class Told:
    """A note in the store, by view and plan, of what the view holds; `sync` does not ask it."""

    def __init__(self, store: Store, plan: Plan, view: str) -> None:
        """Look at nothing yet; `view` is Optuna, MLflow at an address, or reports in a folder."""
        self._store, self._plan = store, plan
        self._path, self._name = store.folder / "views.json", f"{plan.id}: {view}"

    def holds(self, also: Json = None) -> bool:
        """Return whether the view was told what the store holds now, all trials being finished.

        Args:
            also: What was noted beside it and must be equal; None: whatever that was.
        """
        noted = self._noted().get(self._name)
        if not isinstance(noted, dict) or noted.get("results") is None:
            return False
        if also is not None and noted.get("also") != also:
            return False
        return bool(noted["results"] == self._results())

    def note(self, also: Json = None) -> None:
        """Note that the view was told what the store holds now, and `also`."""
        told = {"results": self._results(), "also": also}
        write_whole(self._path, json.dumps({**self._noted(), self._name: told}) + "\n")

    def also(self) -> Json:
        """Return what was noted beside it; None where nothing was."""
        noted = self._noted().get(self._name)
        return noted.get("also") if isinstance(noted, dict) else None

    def _noted(self) -> dict[str, Json]:
        noted = read_json(self._path)
        return noted if isinstance(noted, dict) else {}

    def _results(self) -> str | None:
        """Return the hash of what the store holds of the plan; None while trials are missing."""
        told: dict[str, Json] = {}
        for trial in self._trials():
            entry = self._store.indexed(trial.key)
            sha256 = self._store.result_sha256(trial.key) if entry is None else entry.sha256
            if sha256 is None and not trial.is_tuning:
                return None
            seconds = self._store.seconds(trial.key) if entry is None else entry.seconds
            told[trial.key] = [sha256, seconds]
        return sha256_of([told, hashes([self._store.folder / "plans" / f"{self._plan.id}.json"])])

    def _trials(self) -> Iterator[Trial]:
        yield from self._plan.trials
        tuning = self._store.tuning_plan(self._plan)
        yield from () if tuning is None else tuning.trials


def hashes(files: Iterable[Path]) -> dict[str, str | None]:
    """Return the hash of each file by its path; None of one that is missing."""
    return {str(path): file_sha256(path) if path.is_file() else None for path in files}
