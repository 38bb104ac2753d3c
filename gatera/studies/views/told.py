"""What MLflow was told of a plan: so that a run that finds nothing new does not load MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from gatera.studies.plan.plan import TUNING_SUFFIX, Plan
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import file_sha256, read_json, write_whole
from gatera.studies.views.mlflow_database import keys_in
from gatera.trial import Json, sha256_of


class ToldToMlflow:
    """A note in the store, by tracking server and plan; `sync` does not ask it."""

    def __init__(self, store: Store, plan: Plan, uri: str | None) -> None:
        """Look at nothing yet; `uri` None means the store's own database."""
        self._store, self._plan, self._uri = store, plan, uri
        self._path = store.folder / "mlflow.json"

    def _results(self) -> str | None:
        """Return the hash of what the store holds of the plan; None while trials are missing."""
        told: dict[str, Json] = {}
        for trial in self._plan.trials:
            if (result := self._store.result(trial.key)) is None:
                return None
            told[trial.key] = [result.attempt, result.code_sha256]
        tuning = stored_tuning(self._store, self._plan)
        for trial in () if tuning is None else tuning.trials:
            result = self._store.result(trial.key)
            told[trial.key] = None if result is None else result.attempt
        return sha256_of(told)

    def holds(self, report: Iterable[Path] | None) -> bool:
        """Return whether MLflow was told the results as they are, and these files of a report."""
        noted = self._noted().get(self._name)
        if not isinstance(noted, dict) or (self._uri is None and not self._database_has_all()):
            return False
        if report is not None and noted.get("report") != _hashes(report):
            return False
        return noted.get("results") is not None and noted["results"] == self._results()

    def note(self, report: Iterable[Path]) -> None:
        """Note that MLflow was told the results as they are, and these files of a report."""
        told = {"results": self._results(), "report": _hashes(report)}
        write_whole(self._path, json.dumps({**self._noted(), self._name: told}) + "\n")

    @property
    def _name(self) -> str:
        return f"{self._plan.stem} at {self._uri}"

    def _noted(self) -> dict[str, Json]:
        noted = read_json(self._path)
        return noted if isinstance(noted, dict) else {}

    def _database_has_all(self) -> bool:
        """Return whether no run was removed from the store's database, nor the database itself."""
        there = keys_in(self._store.folder / "mlflow.db", self._plan.stem)
        return {trial.key for trial in self._plan.trials} <= there


def _hashes(report: Iterable[Path]) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in report}


def stored_tuning(store: Store, plan: Plan) -> Plan | None:
    """Return the plan of another's tuning trials; None where it has none yet."""
    stem = f"{plan.stem}{TUNING_SUFFIX}"
    return store.plan(stem) if plan.tuning is not None and stem in store.stems() else None
