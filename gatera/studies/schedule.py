"""Optuna: its view of a study, and the searches that it proposes settings for and prunes.

Projections of the store: nothing depends on them, and whatever happened to them, the next `sync` or
`Search.catch_up` brings them up to date. One process at a time, the supervisor, writes them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from gatera.studies.plan import Plan
from gatera.studies.store import Store
from gatera.trial import Json, Trial

_VALIDATION = "val/accuracy"  # of a line of metrics.jsonl, and of a result

_SEEDS = IntDistribution(0, 2**31 - 1)


class _NoLock:
    """A lock for a journal that has one writer, who holds the supervisor's lock already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def sync(store: Store, plans: Sequence[Plan], max_attempts: int | None = None) -> None:
    """Bring the Optuna study `<study>.<scale>` up to what the store holds.

    Every planned trial is in it once, found by its user attribute `key`: enqueued and asked for
    with its variant and seed as parameters, told its score when it has a result, and told that it
    failed when it did.

    Args:
        store: The store whose journal is written.
        plans: All plans of one study at one scale; they share the Optuna study.
        max_attempts: Failures after which a trial is left; None: each kind's own limit.
    """
    with _quiet():
        study = _open(store, plans)
        queued = {trial.user_attrs["key"] for trial in study.get_trials(deepcopy=False)}
        for trial in _planned(plans):
            if trial.key not in queued:
                parameters = {"variant": trial.variant, "seed": trial.seed}
                study.enqueue_trial(parameters, user_attrs={"key": trial.key})
        _start_waiting(study)
        _tell(study, store, max_attempts)


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
    storage = _storage(store)
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


def _storage(store: Store) -> JournalStorage:
    path = store.folder / "optuna.journal"
    _cut_torn_line(path)
    backend = JournalFileBackend(str(path), lock_obj=_NoLock())  # type: ignore[arg-type]
    return JournalStorage(backend)


def _contradicts(study: optuna.Study, store: Store, metric: str = "test/accuracy") -> bool:
    """Return whether a trial was told otherwise than the store now says."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.PRUNED:  # keeps its last intermediate value
            if store.has_result(trial.user_attrs["key"]):
                return True
        elif trial.state.is_finished() and "key" in trial.user_attrs:
            result = store.result(trial.user_attrs["key"])
            if trial.value != (result.metrics[metric] if result is not None else None):
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


def _tell(study: optuna.Study, store: Store, max_attempts: int | None) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        _report(study, store, trial)
        _tell_one(study, store, trial, "test/accuracy", max_attempts)


def _report(study: optuna.Study, store: Store, frozen: FrozenTrial) -> optuna.Trial:
    """Report a running trial's validations that Optuna does not know yet."""
    trial = optuna.Trial(study, frozen._trial_id)
    for step, value in _validations(store, frozen.user_attrs["key"]).items():
        if step not in frozen.intermediate_values:
            trial.report(value, step)
    return trial


def _validations(store: Store, key: str) -> dict[int, float]:
    """Return a trial's accuracy on the validation items, by step, each once."""
    found: dict[int, float] = {}
    for attempt in store.attempts(key):
        for line in store.metrics(key, attempt):
            if isinstance(value := line.get(_VALIDATION), int | float):
                found.setdefault(int(line.get("step") or 0), float(value))
    return found


def _tell_one(
    study: optuna.Study,
    store: Store,
    trial: FrozenTrial,
    metric: str,
    max_attempts: int | None = None,
) -> bool:
    """Tell Optuna how a trial ended; return whether it did."""
    key = trial.user_attrs["key"]
    result = store.result(key)
    if result is not None:
        study.tell(trial.number, float(result.metrics[metric]))
    elif store.is_running(key):
        return False
    elif store.is_pruned(key):
        study.tell(trial.number, state=TrialState.PRUNED)
    elif store.has_failed(key, max_attempts):
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        return False
    return True


# Searching


@dataclass(frozen=True)
class Range:
    """Where a search looks for one setting."""

    low: float
    high: float
    log: bool = False  # whether it is even in the number's logarithm


@dataclass(frozen=True)
class Proposal:
    """Settings to try, with the number that Optuna knows them by."""

    number: int
    settings: Mapping[str, Json]  # "section.field" -> value


class Search:
    """A search over settings by accuracy on validation items, with early ends for the hopeless.

    The caller makes a trial of each proposal and keeps it in a plan: these trials, with what the
    store says of them, are all that a search stands on. Lost, it is made again by `catch_up`.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        space: Mapping[str, Range | Sequence[Json]],
        *,
        seed: int,
        whole_trials: int = 4,
    ) -> None:
        """Open the search called `name`.

        Args:
            store: Where the trials are.
            name: Of the Optuna study; another one than any `<study>.<scale>`.
            space: "section.field" -> a range of numbers, or the values to choose among.
            seed: Of the proposals.
            whole_trials: Trials that must have ended before one may be pruned; as many are
                proposed at random.
        """
        self._store, self._space = store, {n: _distribution(each) for n, each in space.items()}
        storage = _storage(store)
        with _quiet():
            self._study = _create(storage, name, seed, whole_trials)
            if _contradicts(self._study, store, _VALIDATION):
                optuna.delete_study(study_name=name, storage=storage)
                self._study = _create(storage, name, seed, whole_trials)

    def propose(self) -> Proposal:
        """Ask for settings to try next."""
        with _quiet():
            trial = self._study.ask(self._space)
        return Proposal(trial.number, dict(trial.params))

    def accept(self, proposal: Proposal, key: str) -> None:
        """Note the key of the trial that a proposal became."""
        frozen = self._study.get_trials(deepcopy=False)[proposal.number]
        optuna.Trial(self._study, frozen._trial_id).set_user_attr("key", key)

    def catch_up(self, tried: Mapping[str, Mapping[str, Json]]) -> list[str]:
        """Bring the search up to the store; return the keys of the trials that it prunes now.

        These stop at their next step and count as pruned.

        Args:
            tried: The settings of every trial made of a proposal, by key.
        """
        with _quiet():
            known = {t.user_attrs.get("key") for t in self._study.get_trials(deepcopy=False)}
            for key, settings in tried.items():
                if key not in known:
                    self._study.enqueue_trial(dict(settings), user_attrs={"key": key})
                    self._study.ask(self._space)
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            return [
                pruned for trial in running if (pruned := self._follow(trial, tried)) is not None
            ]

    def _follow(self, frozen: FrozenTrial, tried: Mapping[str, Json]) -> str | None:
        """Report and tell what the store says of a trial; return its key where it is pruned now."""
        key = frozen.user_attrs.get("key")
        if key is None or key not in tried:  # a proposal that no trial was made of
            self._study.tell(frozen.number, state=TrialState.FAIL)
            return None
        trial = _report(self._study, self._store, frozen)
        if _tell_one(self._study, self._store, frozen, _VALIDATION):
            return None
        if self._store.is_pruned(key) or not trial.should_prune():
            return None
        self._store.prune(key, max(_validations(self._store, key)))
        return str(key)

    def best(self) -> str | None:
        """Return the key of the finished trial with the highest accuracy, the first such one."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return None
        return str(max(done, key=lambda trial: trial.value or 0.0).user_attrs["key"])


def _create(storage: JournalStorage, name: str, seed: int, whole_trials: int) -> optuna.Study:
    return optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=TPESampler(seed=seed, n_startup_trials=whole_trials),
        pruner=MedianPruner(n_startup_trials=whole_trials),
    )


def _distribution(space: Range | Sequence[Json]) -> BaseDistribution:
    if isinstance(space, Range):
        return FloatDistribution(space.low, space.high, log=space.log)
    return CategoricalDistribution(space)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own log lines, one a trial, out of the progress."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
