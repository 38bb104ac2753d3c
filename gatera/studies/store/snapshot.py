"""Where every trial of a plan stands at one moment, and how long the rest will take."""

from __future__ import annotations

import functools
import heapq
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from gatera.collecting import uncollected
from gatera.studies.planning.plan import Plan
from gatera.studies.store.attempts import AttemptRecord
from gatera.studies.store.staleness import stale_files
from gatera.studies.store.store import Store
from gatera.studies.study import FROZEN
from gatera.trial import Json, Trial, TrialResult

_PACE_SHARE = 0.1  # of a phase that must be done before its pace counts


STATES = ("done", "running", "waiting", "failed", "pruned", "stale")


@dataclass(frozen=True)
class TrialStatus:
    """Where one trial stands, read from files alone."""

    state: str  # done, stale, running, failed, pruned or waiting
    attempt: int  # the newest claim, 0 where there is none
    progress: Json = None  # last line of the newest attempt's metrics.jsonl, where it is running
    owner: Json = None  # who holds the newest claim, where it is running
    failure: AttemptRecord | None = None  # of the newest attempt that counts, where it failed
    reason: str | None = None  # why it stands there, where there is something to say
    seconds: float = 0.0  # of all attempts together, where it has a result
    scoring_seconds: float | None = None  # of these, where it has a result of trained weights

    @property
    def has_ended(self) -> bool:
        """Whether it has a result that is whole."""
        return self.state in ("done", "stale")


def status_of(store: Store, trial: Trial, *, max_attempts: int | None = None) -> TrialStatus:
    """Return where `trial` stands; reads files only."""
    key = trial.key
    entry = store.indexed(key)
    if entry is not None and entry.is_current:
        scoring = None if entry.is_frozen else entry.scoring_seconds
        return TrialStatus("done", entry.newest, seconds=entry.seconds, scoring_seconds=scoring)
    attempt = store.claims.newest(key)
    if (result := store.result(key)) is not None:
        return _ended(trial, result, attempt, store.seconds(key))
    if store.claims.is_live(key, attempt):
        owner = store.claims.owner(key, attempt)
        return TrialStatus("running", attempt, store.progress(key, attempt), owner)
    if store.is_pruned(key):
        return TrialStatus("pruned", attempt)
    if store.has_failed(key, max_attempts):
        failure = store.failures(key)[-1]
        return TrialStatus("failed", attempt, failure=failure, reason=failure.message)
    return TrialStatus("waiting", attempt)


def _ended(trial: Trial, result: TrialResult, attempt: int, seconds: float) -> TrialStatus:
    """Return where a trial with a result stands."""
    changed = stale_files(trial, result)
    return TrialStatus(
        "stale" if changed else "done",
        attempt,
        reason=f"stale: {', '.join(changed)} changed" if changed else None,
        seconds=seconds,
        scoring_seconds=None if result.is_frozen else scoring_seconds(result),
    )


def scoring_seconds(result: TrialResult) -> float:
    """Return how long answering the test items took."""
    return float(result.measured.get("eval_seconds", 0.0))


@dataclass(frozen=True)
class Snapshot:
    """Where each trial of a plan stands at one moment."""

    plan: Plan
    statuses: Mapping[str, TrialStatus]  # by key
    trial_seconds: Mapping[str, float]  # of all attempts together, by key of finished trials
    training_share: float  # of a trial's time; the rest is scoring

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Return the number of trials in each state, and of all planned ones."""
        found = Counter(status.state for status in self.statuses.values())
        planned = len(self.statuses)
        if self.plan.is_tuning and self.plan.tuning is not None:
            planned = self.plan.tuning.total  # proposed or not
        return {"planned": planned, **{state: found[state] for state in STATES}}

    @functools.cached_property
    def unfinished(self) -> list[Trial]:
        """Return the trials that still have to run."""
        return [t for t in self.plan.trials if self.statuses[t.key].state in ("waiting", "running")]

    @property
    def failed(self) -> list[Trial]:
        """Return the trials that failed as often as they may."""
        return [t for t in self.plan.trials if self.statuses[t.key].state == "failed"]

    @property
    def eta_seconds(self) -> float | None:
        """Return the estimated time until all is done; None while nothing says how long it takes.

        Running trials take what the finished ones of their variant took, less what they have done;
        those that wait go, in order, to whoever is free first. As many are taken to run at a time
        as run now.
        """
        left = self.unfinished
        if not left:
            return 0.0
        typical = self._typical_seconds()
        if typical is None:
            return None
        running = [trial for trial in left if self.statuses[trial.key].state == "running"]
        free_at = [self._left_seconds(trial, typical(trial)) for trial in running] or [0.0]
        heapq.heapify(free_at)
        for trial in left:
            if self.statuses[trial.key].state != "running":
                heapq.heappush(free_at, heapq.heappop(free_at) + typical(trial))
        return max(free_at)

    def _typical_seconds(self) -> Callable[[Trial], float] | None:
        """Return what tells how long a trial takes; None where nothing does."""
        by_variant: dict[str, list[float]] = {}
        for trial in self.plan.trials:
            if trial.key in self.trial_seconds:
                by_variant.setdefault(trial.variant, []).append(self.trial_seconds[trial.key])
        trained = [
            each for name, found in by_variant.items() if name != FROZEN for each in found
        ] or [g for t in self.unfinished if (g := self._extrapolated(t)) is not None]
        if not trained:
            return None
        overall = fmean(trained)
        means = {variant: fmean(found) for variant, found in by_variant.items()}
        return lambda trial: means.get(trial.variant, overall)

    def _left_seconds(self, trial: Trial, typical: float) -> float:
        """Return how long a running trial still takes: at its own pace, once it has one."""
        status = self.statuses[trial.key]
        progress = status.progress or {}
        scoring = typical * (1 - self.training_share)
        if progress.get("phase") == "test":
            done = _ratio(progress.get("answered"), progress.get("items"))
            return _rest(progress, done) if done > _PACE_SHARE else scoring * (1 - done)
        done = _ratio(progress.get("step"), progress.get("max_steps"))
        if done > _PACE_SHARE and status.attempt == 1:  # a resumed one began somewhere in between
            return _rest(progress, done) + scoring
        return typical * self.training_share * (1 - done) + scoring

    def _extrapolated(self, trial: Trial) -> float | None:
        """Return how long a running trial will take if it goes on at its pace."""
        progress = self.statuses[trial.key].progress or {}
        done = _ratio(progress.get("step"), progress.get("max_steps"))
        if not done or progress.get("phase") == "test" or "seconds" not in progress:
            return None
        return float(progress["seconds"]) / done


def _rest(progress: Mapping[str, Json], done: float) -> float:
    """Return the seconds that the rest of a phase takes at the pace so far."""
    return float(progress.get("seconds") or 0.0) * (1 - done) / done


def _ratio(part: Json, whole: Json) -> float:
    return float(part) / float(whole) if part and whole else 0.0


_NEVER_CLAIMED = TrialStatus("waiting", 0)


class Follower:
    """Follows the trials of a plan: looks again at those alone that may have gone on.

    A trial with a result is not looked at again: whoever asks whether one was taken away, or
    damaged, since then takes another follower.
    """

    def __init__(self, store: Store, plan: Plan, *, max_attempts: int | None = None) -> None:
        """Look at nothing yet; `max_attempts` None: each kind of failure has its own limit."""
        self._store, self._plan, self._max_attempts = store, plan, max_attempts
        self._open = {trial.key: trial for trial in plan.trials}
        self._ended: dict[str, TrialStatus] = {}  # by key, of the trials that have a result
        self._seconds: dict[str, float] = {}  # the same, of all attempts together
        self._shares: list[float] = []  # of training, in a trial's time

    def look(self) -> Snapshot:
        """Return where each trial stands now."""
        with uncollected():  # of thousands of results, all of which stay
            found = {
                key: status_of(self._store, self._open[key], max_attempts=self._max_attempts)
                for key in self._store.begun(self._open)
            }
        for key, status in found.items():
            if status.has_ended:
                self._note_end(key, status)
        known = found | self._ended
        statuses = {t.key: known.get(t.key, _NEVER_CLAIMED) for t in self._plan.trials}
        share = fmean(self._shares) if self._shares else 1.0
        return Snapshot(self._plan, statuses, dict(self._seconds), share)

    def _note_end(self, key: str, status: TrialStatus) -> None:
        del self._open[key]
        self._ended[key] = status
        self._seconds[key] = status.seconds
        if status.scoring_seconds is not None and status.seconds:
            self._shares.append(max(0.0, 1 - status.scoring_seconds / status.seconds))


def take_snapshot(store: Store, plan: Plan, *, max_attempts: int | None = None) -> Snapshot:
    """Read where each trial of `plan` stands."""
    return Follower(store, plan, max_attempts=max_attempts).look()


@dataclass(frozen=True)
class Validation:
    """A trial on its validation items, in the course of its training."""

    accuracy: float
    is_last: bool  # whether training had ended: it then says nothing that the result does not say


def validations(store: Store, key: str) -> dict[int, Validation]:
    """Return a trial's validations by step.

    A later attempt's replaces an earlier's: another one only where the code changed between.
    """
    found: dict[int, Validation] = {}
    for attempt in store.claims.attempts(key):
        for line in store.metrics(key, attempt):
            if isinstance(accuracy := line.get("val/accuracy"), int | float):
                step = int(line.get("step") or 0)
                last = float(line.get("max_steps") or math.inf)
                found[step] = Validation(float(accuracy), is_last=step >= last)
    return found
