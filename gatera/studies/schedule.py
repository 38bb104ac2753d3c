"""Optuna's view of a study: one Optuna trial for each trial of the plan.

A projection of the store: nothing depends on it, and whatever happened to it, the next `sync`
brings it up to date. One process at a time, the supervisor, writes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from gatera.studies.plan import Plan
from gatera.studies.store import Store
from gatera.trial import Trial, TrialResult

_SEEDS = IntDistribution(0, 2**31 - 1)


class _NoLock:
    """A lock for a journal that has one writer, who holds the supervisor's lock already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def sync(store: Store, plans: Sequence[Plan]) -> None:
    """Bring the Optuna study `<study>.<scale>` up to what the store holds.

    Every planned trial is in it once, found by its user attribute `key`: enqueued and asked for
    with its variant and seed as parameters, told its score when it has a result, and told that it
    failed when it did.

    Args:
        store: The store whose journal is written.
        plans: All plans of one study at one scale; they share the Optuna study.
    """
    with _quiet():
        study = _open(store, plans)
        queued = {trial.user_attrs["key"] for trial in study.get_trials(deepcopy=False)}
        for trial in _planned(plans):
            if trial.key not in queued:
                parameters = {"variant": trial.variant, "seed": trial.seed}
                study.enqueue_trial(parameters, user_attrs={"key": trial.key})
        _start_waiting(study)
        _tell(study, store)


def _planned(plans: Sequence[Plan]) -> list[Trial]:
    """Return the trials of the plans in their order, each key once."""
    trials: dict[str, Trial] = {}
    for trial in (trial for plan in plans for trial in plan.trials):
        trials.setdefault(trial.key, trial)
    return list(trials.values())


def _open(store: Store, plans: Sequence[Plan]) -> optuna.Study:
    """Open the study; begin it again where it contradicts the store or lacks a variant.

    Optuna's trials are final once told, and a categorical parameter cannot gain a choice.
    """
    path = store.folder / "optuna.journal"
    _cut_torn_line(path)
    backend = JournalFileBackend(str(path), lock_obj=_NoLock())  # type: ignore[arg-type]
    storage = JournalStorage(backend)
    name = f"{plans[0].study}.{plans[0].scale}"
    variants = sorted({variant for plan in plans for variant in plan.changes})

    def create() -> optuna.Study:
        return optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )

    study = create()
    if study.user_attrs.get("variants", variants) != variants or _contradicts(study, store):
        optuna.delete_study(study_name=name, storage=storage)
        study = create()
    if "variants" not in study.user_attrs:
        study.set_user_attr("variants", variants)
    return study


def _contradicts(study: optuna.Study, store: Store) -> bool:
    """Return whether a trial was told otherwise than the store now says."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            result = store.result(trial.user_attrs["key"])
            if trial.value != (_score(result) if result is not None else None):
                return True
    return False


def _cut_torn_line(path: Path) -> None:
    """Drop a last line that a dying writer left unfinished: no journal with it can be read."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _start_waiting(study: optuna.Study) -> None:
    """Ask for every enqueued trial, in the plan's order, and give it its parameters."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    distributions: dict[str, BaseDistribution] = {
        "variant": CategoricalDistribution(study.user_attrs["variants"]),
        "seed": _SEEDS,
    }
    for _ in waiting:  # as many as are queued: one more would make a trial of Optuna's own
        study.ask(distributions)


def _tell(study: optuna.Study, store: Store) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        key = trial.user_attrs["key"]
        result = store.result(key)
        if result is not None:
            study.tell(trial.number, _score(result))
        elif store.has_failed(key, None) and not store.is_running(key):
            study.tell(trial.number, state=TrialState.FAIL)


def _score(result: TrialResult) -> float:
    return float(result.metrics["test/accuracy"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own log lines, one a trial, out of the progress."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
