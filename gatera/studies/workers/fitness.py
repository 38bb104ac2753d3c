"""Whether this machine may run a trial: asked before it is claimed, so that it costs no attempt."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from gatera import backbones, tasks
from gatera.errors import InputError
from gatera.studies.store.staleness import stale_files
from gatera.studies.store.store import Store
from gatera.training.attempt_files import sha256_or_none
from gatera.training.provenance.machine import Machine
from gatera.trial import Json, Trial


class Fitness:
    """Compares this machine with what trials were planned with, and with where others ran."""

    def __init__(self, store: Store, *, allow_mixed: bool) -> None:
        """Ask what this machine is.

        Raises:
            InputError: a package is missing.
        """
        self._store, self._allow_mixed = store, allow_mixed
        self._here = Machine.here()
        self.beside: Sequence[Trial] = ()  # trials of the same plans
        self._is_alike = False  # known to be like one of the machines that others ran on
        self._fingerprint = functools.cache(tasks.fingerprint)
        self._backbone = functools.cache(backbones.identity)

    def check(self, trial: Trial) -> None:
        """Refuse a trial that this machine cannot run as the others are run.

        Trials `beside` it that have a result or run say what machine the others had.

        Args:
            trial: What is to be claimed.

        Raises:
            InputError: data, a file or a backbone is missing or another, or this machine computes
                by something else than the others' did.
        """
        self._check_files(trial)
        if self._is_alike or self._allow_mixed:
            return
        trials = {other.key: other for other in self.beside}
        others = (trials[key] for key in self._store.begun(trials))
        while not self._is_alike and (other := next(others, None)) is not None:
            self._is_alike = self._is_like_that_of(other)

    def _check_files(self, trial: Trial) -> None:
        for task, splits in trial.identities.get("data", {}).items():
            for split, planned in splits.items():
                self._same(f"the {split} data of {task}", planned, self._fingerprint(task, split))
        name = trial.config["backbone"]["name"]
        self._same(f"backbone {name}", trial.identities["backbone"], self._backbone(name))
        for name, path in trial.sources.items():
            planned = trial.identities.get("sources", {}).get(name)
            self._same(f"the file of {name}, {path}", planned, sha256_or_none(Path(path)))

    def _same(self, what: str, planned: Json, found: Json) -> None:
        if planned != found:
            state = "is missing here" if found is None else "is another here"
            raise InputError(
                f"{what} {state} than the trials were planned with; bring it (--data-root names "
                "where data lies), or plan the study again with what is here."
            )

    def _is_like_that_of(self, trial: Trial) -> bool:
        """Return whether a trial ran, or runs, on a machine like ours; False where nobody knows."""
        attempt = self._store.claims.newest(trial.key)
        if not attempt:
            return False
        result = self._store.result(trial.key)
        if result is not None and stale_files(trial, result):
            return False  # it stands in no table
        if result is None and not self._store.claims.is_live(trial.key, attempt):
            return False
        counts = attempt if result is None else result.attempt
        there = self._store.machine(trial.key, counts)
        if there is None:  # it has begun just now
            return False
        if differing := self._here.differences(there):
            raise InputError(
                f"this machine is not like the one that ran {trial.variant}, seed {trial.seed}: "
                f"{', '.join(differing)}. Results of unlike machines cannot stand in one table: "
                "make it alike, name another --store, or pass --allow-mixed for a table with a "
                "footnote."
            )
        return True
