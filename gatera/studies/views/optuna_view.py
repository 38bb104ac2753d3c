"""Optuna's view of a plan: an Optuna study that holds its finished trials, as the store has them.

A projection of the store: nothing depends on it, and whatever happened to it, the next `sync`
brings it up to date. One process at a time, the supervisor, writes it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from gatera.studies.planning.confounds import flat_fields, varied_fields
from gatera.studies.planning.plan import TUNING_SUFFIX, Plan
from gatera.studies.search.search import distributions_of, quiet
from gatera.studies.store.snapshot import validations
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import set_aside, signature
from gatera.studies.study import FROZEN
from gatera.trial import Json, Trial, TrialResult, canonical_json

# What stands beside optuna-dashboard's "Best Trial".
_BEST = "best_trial"
_BEST_TEXT = "one seed of one row; rows are compared in the report {plan_id}"
_TUNING_BEST_TEXT = "the best of one row; what each row has chosen is in the report {plan_id}"

# Where optuna-dashboard keeps a study's note: as `optuna_dashboard.save_note` writes it.
_NOTE_TEXT, _NOTE_VERSION = "dashboard:note_str:0", "dashboard:note_ver"

_NOTE = """\
Each trial is one row of the table at one seed: the user attributes `row` and `seed`. The parameters
are the settings in which rows differ.

**The best trial is one seed of one row**, and *importance* asks which settings the best seeds
share. Neither says which row is better: rows are compared, paired by seed,
in the report `{plan_id}`.
"""

_TUNING_NOTE = """\
Each trial tries settings for one row (the user attribute `row`) and is scored on validation items.

**The best trial is the best of one row alone**: every row searches with a budget of its own. What
each row has chosen is in the report `{plan_id}`.
"""


@dataclass(frozen=True)
class _Ending:
    """How a trial ended: two of them are equal where nothing has happened in between."""

    state: TrialState
    attempt: int  # the one that counts, of a trial without a result the last one
    result: TrialResult | None = None


class OptunaView:
    """Keeps the Optuna study that is called like a plan, by its id.

    Every trial is added once, when it has ended, with the times at which it began and ended. Trials
    that wait or run are not in it. Optuna's trials are final: where one of them contradicts the
    store, the study is begun anew.
    """

    def __init__(self, store: Store, plan: Plan, max_attempts: int | None = None) -> None:
        """Look at nothing yet.

        Args:
            store: The store whose journal is written.
            plan: The study's trials, or its tuning trials.
            max_attempts: Failures after which a trial is left; None: each kind's own limit.
        """
        self._store, self._plan, self._max_attempts = store, plan, max_attempts
        self._path = store.folder / "optuna.journal"
        self._planned: dict[str, Trial] = {}  # by key: equal rows share their trials
        for trial in plan.trials:
            self._planned.setdefault(trial.key, trial)
        self._space = _space_of(plan)
        self._storage: JournalStorage | None = None
        self._left: tuple[int, int, int] | None = None  # signature of the journal after our writing
        self._endings: dict[str, _Ending] = {}  # by key, of the trials in the journal
        self._ended: dict[str, FrozenTrial] = {}  # the same as Optuna has them
        self._study: optuna.Study | None = None

    def sync(self) -> None:
        """Bring the study up to what the store holds."""
        endings = self._look()
        new = {key: each for key, each in endings.items() if self._endings.get(key) != each}
        ours = self._study is not None and signature(self._path) == self._left
        if ours and not new and len(endings) == len(self._endings):
            return
        with quiet():
            frozen = {key: self._frozen(self._planned[key], each) for key, each in new.items()}
            self._ended = {k: v for k, v in self._ended.items() if k in endings} | frozen
            if ours and self._endings.keys() <= endings.keys() - new.keys():
                self._add(frozen.values())
            else:
                self._storage = self._storage if ours else _storage(self._path)
                self._write()
        self._endings, self._left = endings, signature(self._path)

    def _look(self) -> dict[str, _Ending]:
        """Return how trials ended, by key, in the plan's order."""
        begun = self._store.begun(self._planned)
        return {key: each for key in begun if (each := self._ending(key)) is not None}

    def _ending(self, key: str) -> _Ending | None:
        """Return how a trial ended; None where it waits or runs."""
        store = self._store
        if (result := store.result(key)) is not None:
            return _Ending(TrialState.COMPLETE, result.attempt, result)
        newest = store.claims.newest(key)
        if not newest or store.claims.is_live(key, newest):
            return None
        if store.is_pruned(key):
            return _Ending(TrialState.PRUNED, newest)
        if store.has_failed(key, self._max_attempts):
            return _Ending(TrialState.FAIL, store.failures(key)[-1].attempt)
        return None

    def _write(self) -> None:
        """Add the trials that the study lacks; begin it anew where it contradicts the store."""
        storage = self._storage
        assert storage is not None
        self._study = self._open(storage)
        there = self._study.get_trials(deepcopy=False)
        if self._contradicts(there):
            optuna.delete_study(study_name=self._plan.id, storage=storage)
            self._study, there = self._open(storage), []
        known = {trial.user_attrs["key"] for trial in there}
        self._add(trial for key, trial in self._ended.items() if key not in known)

    def _add(self, trials: Iterable[FrozenTrial]) -> None:
        """Add trials in the order in which they ended."""
        assert self._study is not None
        ordered = sorted(trials, key=lambda trial: trial.datetime_complete or datetime.max)
        self._study.add_trials(ordered)

    def _open(self, storage: JournalStorage) -> optuna.Study:
        """Return the study, made where there is none, with notes for who looks at it."""
        name, tunes = self._plan.id, self._plan.is_tuning
        plan_id = name.removesuffix(TUNING_SUFFIX)
        if name not in optuna.get_all_study_names(storage):  # trying to make it writes a line
            optuna.create_study(study_name=name, storage=storage, direction="maximize")
        study = optuna.load_study(study_name=name, storage=storage)
        if study.metric_names is None:
            study.set_metric_names([self._metric])
        if _BEST not in study.user_attrs:
            study.set_user_attr(
                _BEST, (_TUNING_BEST_TEXT if tunes else _BEST_TEXT).format(plan_id=plan_id)
            )
        number = storage.get_study_id_from_name(name)
        if _NOTE_VERSION not in storage.get_study_system_attrs(number):
            text = _TUNING_NOTE if tunes else _NOTE
            storage.set_study_system_attr(number, _NOTE_TEXT, text.format(plan_id=plan_id))
            storage.set_study_system_attr(number, _NOTE_VERSION, 1)
        return study

    def _contradicts(self, there: Sequence[FrozenTrial]) -> bool:
        """Return whether a trial of the study is not, or not once, what the store now says."""
        keys = [trial.user_attrs.get("key") for trial in there]
        if len(set(keys)) < len(keys) or not self._ended.keys() >= set(keys):
            return True
        pairs = zip(there, keys, strict=True)
        return any(_content(trial) != _content(self._ended[str(key)]) for trial, key in pairs)

    # From the store's trials to Optuna's

    @property
    def _metric(self) -> str:
        return "val/accuracy" if self._plan.is_tuning else f"test/{self._plan.endpoint}"

    def _frozen(self, trial: Trial, ending: _Ending) -> FrozenTrial:
        """Return a trial that has ended as Optuna has it."""
        fields, space = flat_fields(trial.config), self._space[trial.variant]
        courses = validations(self._store, trial.key)
        accuracies = {step: each.accuracy for step, each in sorted(courses.items())}
        value, state = None, ending.state
        if ending.result is not None:
            value = ending.result.metrics.get(self._metric)
            if value is None:  # of code that did not measure it yet
                state = TrialState.FAIL
        elif ending.state == TrialState.PRUNED and accuracies:
            value = accuracies[max(accuracies)]  # as Optuna's own
        frozen = create_trial(
            state=state,
            value=value,
            params={name: _value(fields[name], each) for name, each in space.items()},
            distributions=space,
            user_attrs={"key": trial.key, "row": trial.variant, "seed": trial.seed},
            intermediate_values=accuracies,
        )
        began, ended = self._times(trial.key, ending)
        frozen.datetime_start = datetime.fromtimestamp(began)
        frozen.datetime_complete = datetime.fromtimestamp(max(began, ended))
        return frozen

    def _times(self, key: str, ending: _Ending) -> tuple[float, float]:
        """Return when a trial was first claimed, and when it ended, in seconds since the epoch."""
        began = self._claimed_at(key, min(self._store.claims.attempts(key)))
        record = self._store.record(key, ending.attempt)
        seconds = record.seconds if record is not None else 0.0
        return began, self._claimed_at(key, ending.attempt) + seconds

    def _claimed_at(self, key: str, attempt: int) -> float:
        owner = self._store.claims.owner(key, attempt) or {}
        claim = self._store.trial_folder(key) / f"claim.{attempt}"
        return float(owner["claimed_at"]) if "claimed_at" in owner else _written_at(claim)


def _written_at(path: Path) -> float:
    """Return when a file was last written; 0 where it is missing."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _content(trial: FrozenTrial) -> tuple[object, ...]:
    """Return what the store says of a trial: all but its numbers."""
    times = (trial.datetime_start, trial.datetime_complete)
    settings = (trial.params, trial.distributions, trial.user_attrs)
    return (trial.state, trial.value, trial.intermediate_values, times, settings)


def _space_of(plan: Plan) -> dict[str, dict[str, BaseDistribution]]:
    """Return row -> "section.field" -> where that may lie, of the settings that tell rows apart.

    Of tuning trials these are the searched ones. A setting that a row does not have is not among
    its own; the frozen backbone has none.
    """
    if plan.is_tuning and plan.tuning is not None:
        return {row: distributions_of(tuned.space) for row, tuned in plan.tuning.rows.items()}
    trained = [trial for trial in plan.trials if trial.variant != FROZEN]
    firsts = {trial.variant: trial for trial in reversed(trained)}  # of each row, at its first seed
    varied = varied_fields([trial.config for trial in firsts.values()])
    configs = [flat_fields(trial.config) for trial in trained]
    space = {name: _distribution([c[name] for c in configs if name in c]) for name in varied}
    return {FROZEN: {}} | {
        row: {name: space[name] for name in varied if name in flat_fields(trial.config)}
        for row, trial in firsts.items()
    }


def _distribution(values: Sequence[Json]) -> BaseDistribution:
    """Return the least distribution that holds all `values` of a setting."""
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return IntDistribution(min(values), max(values))
    if kinds <= {int, float}:
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(sorted({_text(value) for value in values}))


def _value(value: Json, distribution: BaseDistribution) -> str | int | float:
    """Return the value of a setting as Optuna has it."""
    return _text(value) if isinstance(distribution, CategoricalDistribution) else value


def _text(value: Json) -> str:
    """Return a text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else canonical_json(value)


# The journal


class _NoLock:
    """A lock for a journal that has one writer, who holds the supervisor's lock already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def _storage(path: Path) -> JournalStorage:
    """Open the journal; set one that is damaged aside."""
    _cut_torn_line(path)

    def opened() -> JournalStorage:
        backend = JournalFileBackend(str(path), lock_obj=_NoLock())  # type: ignore[arg-type]
        return JournalStorage(backend)  # which reads the whole journal

    try:
        return opened()
    except Exception:  # a damaged line raises whatever its place leads to
        if not path.exists():
            raise
        set_aside(path)
        return opened()


def _cut_torn_line(path: Path) -> None:
    """Drop a last line that a dying writer left unfinished: no journal with it can be read."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def drop_other_studies(store: Store, names: Collection[str]) -> None:
    """Delete the Optuna studies that are no plan's: those not among `names`."""
    with quiet():
        storage = _storage(store.folder / "optuna.journal")
        for name in optuna.get_all_study_names(storage):
            if name not in names:
                optuna.delete_study(study_name=name, storage=storage)
