"""Optuna: its view of a study, and the searches that it proposes settings for and prunes.

The views are projections of the store: nothing depends on them, and whatever happened to them, the
next `sync` brings them up to date. One process at a time, the supervisor, writes them. A search
lives in memory alone.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import warnings
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
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from gatera.studies.files import set_aside
from gatera.studies.plan import Plan
from gatera.studies.store import Store
from gatera.studies.tuning import Range
from gatera.trial import Trial, sha256_of

_VALIDATION = "val/accuracy"  # of a line of metrics.jsonl
_TEST = "test/accuracy"  # of a result

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


def _contradicts(study: optuna.Study, store: Store) -> bool:
    """Return whether a trial was told otherwise than the store now says.

    So is one whose asking was cut short by a kill: it lacks a parameter for good.
    """
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.WAITING and trial.params.keys() != {"variant", "seed"}:
            return True
        if trial.state == TrialState.PRUNED:  # keeps its last intermediate value
            if store.has_result(trial.user_attrs["key"]):
                return True
        elif trial.state.is_finished() and "key" in trial.user_attrs:
            result = store.result(trial.user_attrs["key"])
            if trial.value != (result.metrics[_TEST] if result is not None else None):
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
        _tell_one(study, store, trial, max_attempts)


def _report(study: optuna.Study, store: Store, frozen: FrozenTrial) -> None:
    """Report a running trial's validations that Optuna does not know yet."""
    trial = optuna.Trial(study, frozen._trial_id)
    for step, (value, _) in _validations(store, frozen.user_attrs["key"]).items():
        if step not in frozen.intermediate_values:
            trial.report(value, step)


def validations(store: Store, key: str) -> dict[int, float]:
    """Return a trial's accuracy on the validation items by step, before its last step.

    A value at the last step says nothing that its result does not say, and ends nothing early.
    """
    found = _validations(store, key)
    return {step: value for step, (value, last) in found.items() if step < last}


def _validations(store: Store, key: str) -> dict[int, tuple[float, float]]:
    """Return a trial's accuracy on the validation items and its last step, by step.

    A later attempt's value replaces an earlier's: another only where the code changed between.
    """
    found: dict[int, tuple[float, float]] = {}
    for attempt in store.attempts(key):
        for line in store.metrics(key, attempt):
            if isinstance(value := line.get(_VALIDATION), int | float):
                last = float(line.get("max_steps") or math.inf)
                found[int(line.get("step") or 0)] = (float(value), last)
    return found


def _tell_one(
    study: optuna.Study, store: Store, trial: FrozenTrial, max_attempts: int | None
) -> None:
    """Tell Optuna how a trial ended, where it did."""
    key = trial.user_attrs["key"]
    result = store.result(key)
    if result is not None:
        study.tell(trial.number, float(result.metrics[_TEST]))
    elif store.is_running(key):
        return
    elif store.is_pruned(key):
        study.tell(trial.number, state=TrialState.PRUNED)
    elif store.has_failed(key, max_attempts):
        study.tell(trial.number, state=TrialState.FAIL)


# Searching


@dataclass(frozen=True)
class Course:
    """What is known of one tuning trial."""

    values: Mapping[str, float]  # "section.field" -> what it tries
    validations: Mapping[int, float]  # step -> accuracy, before its last step
    accuracy: float = 0.0  # of the finished trial; 0 where its loss was not finite any more


class Search:
    """One row's search: what it proposes and prunes, as a function of its seed and what it tried.

    Trials come in rounds. Those of one round are proposed together and judged by earlier rounds
    alone, so that neither depends on which of them ran first. Nothing is kept but the ended rounds:
    a search that is lost is made again by concluding them in order.
    """

    def __init__(
        self,
        space: Mapping[str, Range],
        *,
        seed: int,
        round_size: int,
        pruner: str | None,
        steps: int | None,
        first_step: int | None,
    ) -> None:
        """Begin a search.

        Args:
            space: "section.field" -> where it is looked for.
            seed: Of the proposals.
            round_size: Trials of a round; as many are proposed at random, and run to their end.
            pruner: One of `spec.PRUNERS`, or None.
            steps: Optimizer steps of a trial, where that is known.
            first_step: That of the first validation, where it is known.
        """
        self._space: dict[str, BaseDistribution] = {
            name: FloatDistribution(each.low, each.high, log=each.log)
            for name, each in space.items()
        }
        self._seed, self._round_size = seed, round_size
        self._pruner = _pruner(pruner, round_size, steps, first_step)
        self.ended: list[FrozenTrial] = []  # of the rounds that are over, by number

    def propose(self, known: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return values to try next, beside those `known` of the same round."""
        with _quiet():
            seed = int(sha256_of([self._seed, len(self.ended), len(known)])[:8], 16)
            sampler = TPESampler(
                seed=seed,
                n_startup_trials=self._round_size,
                constant_liar=True,  # trials under way count, or all of a round would be alike
            )
            return dict(self._study(known, sampler).ask(self._space).params)

    def judge(self, place: int, course: Course) -> int | None:
        """Return the step at which the trial at `place` of its round is pruned; None: it is not."""
        if not course.validations or not self.ended:
            return None
        with _quiet():
            trial, pruned = self._follow(place, course)
        return trial.last_step if pruned else None

    def conclude(self, courses: Sequence[Course]) -> None:
        """End a round: its trials' courses are whole."""
        with _quiet():
            followed = [self._follow(place, course) for place, course in enumerate(courses)]
            self.ended += [
                _end(trial, course, pruned)
                for (trial, pruned), course in zip(followed, courses, strict=True)
            ]

    def survivors(self) -> list[int]:
        """Return the numbers of the trials of ended rounds that were not pruned."""
        return [n for n, trial in enumerate(self.ended) if trial.state == TrialState.COMPLETE]

    def _study(
        self, running: Sequence[Mapping[str, float]], sampler: BaseSampler | None = None
    ) -> optuna.Study:
        """Return a study that knows the ended rounds, and the values of trials under way."""
        study = optuna.create_study(
            study_name="search",  # Hyperband draws from the name and the trial's number
            direction="maximize",
            sampler=sampler or RandomSampler(seed=0),  # who only judges draws nothing
            pruner=self._pruner,
        )
        study.add_trials(self.ended)
        for values in running:
            study.add_trial(self._begun(values))
        return study

    def _begun(self, values: Mapping[str, float]) -> FrozenTrial:
        return create_trial(
            state=TrialState.RUNNING, params=dict(values), distributions=self._space
        )

    def _follow(self, place: int, course: Course) -> tuple[FrozenTrial, bool]:
        """Report a trial's validations until it is pruned; return it, and whether it is.

        Others of its round are there by number only, which Hyperband goes by.
        """
        study = self._study([course.values] * (place + 1))
        frozen = study.get_trials(deepcopy=False)[-1]
        trial = optuna.Trial(study, frozen._trial_id)
        pruned = False
        for step, accuracy in sorted(course.validations.items()):
            trial.report(accuracy, step)
            if pruned := trial.should_prune():
                break
        return study.get_trials()[-1], pruned


def _pruner(
    name: str | None, round_size: int, steps: int | None, first_step: int | None
) -> BasePruner:
    if name == "median":
        return MedianPruner(n_startup_trials=round_size)
    if name == "hyperband":
        return HyperbandPruner(
            min_resource=first_step or 1, max_resource="auto" if steps is None else steps
        )
    return NopPruner()


def _end(trial: FrozenTrial, course: Course, pruned: bool) -> FrozenTrial:
    last = course.validations[trial.last_step or 0] if pruned else course.accuracy
    return create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=last,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        system_attrs=trial.system_attrs,
    )


def sync_search(store: Store, name: str, ended: Sequence[FrozenTrial], keys: Sequence[str]) -> None:
    """Bring the Optuna study `name` up to a row's ended tuning trials, in their order.

    Begun again where it says otherwise.
    """
    with _quiet():
        storage = _storage(store)
        wanted = [(key, trial.state, trial.value) for key, trial in zip(keys, ended, strict=False)]

        def create() -> tuple[optuna.Study, list[tuple[str, TrialState, float | None]]]:
            study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize", load_if_exists=True
            )
            found = study.get_trials(deepcopy=False)
            return study, [(t.user_attrs["key"], t.state, t.value) for t in found]

        study, known = create()
        if known != wanted[: len(known)]:
            optuna.delete_study(study_name=name, storage=storage)
            study, known = create()
        for key, trial in list(zip(keys, ended, strict=False))[len(known) :]:
            trial = copy.deepcopy(trial)
            trial.set_user_attr("key", key)
            study.add_trial(trial)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own log lines, one a trial, out of the progress."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
