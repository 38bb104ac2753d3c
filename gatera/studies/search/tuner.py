"""Carrying out a plan's tuning phase on a store: rounds of trials for each row, then its choice.

The stored plan `<plan id>.tuning` holds the trials proposed so far. With what the store says of
them it is all that there is to know: killed at any moment, the phase goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gatera.errors import InputError
from gatera.studies.plan.configuration import with_values
from gatera.studies.plan.plan import Plan
from gatera.studies.plan.tuning import Choice, PlannedTuning, TunedRow, tuning_trial, values_of
from gatera.studies.search.search import Course, Search
from gatera.studies.store.snapshot import Snapshot, take_snapshot, validations
from gatera.studies.store.store import Store
from gatera.trial import Trial, TrialResult


class Tuner:
    """A plan's tuning phase, brought forward by its one supervisor."""

    def __init__(self, store: Store, plan: Plan, *, max_attempts: int | None = None) -> None:
        """Take up the tuning phase of `plan`, with the trials that the store knows of it."""
        assert plan.tuning is not None
        self._store, self._plan, self._tuning = store, plan, plan.tuning
        self._max_attempts = max_attempts
        known = _known_trials(store, plan, plan.tuning)
        self._rows = [
            _Row(store, plan.tuning, plan.trials_of(variant)[0], known[variant], max_attempts)
            for variant in plan.tuning.rows
        ]

    @property
    def plan(self) -> Plan:
        """The plan of the tuning trials proposed so far, row by row."""
        trials = tuple(trial for row in self._rows for trial in row.trials)
        changes = {row.variant: self._plan.changes[row.variant] for row in self._rows}
        return dataclasses.replace(self._plan, trials=trials, changes=changes, is_tuning=True)

    def advance(self) -> Snapshot:
        """Prune what promises too little, propose what is due, and store it; return a snapshot."""
        if sum(row.advance() for row in self._rows):  # each of them
            self._store.write_plan(self.plan)
        return take_snapshot(self._store, self.plan, max_attempts=self._max_attempts)

    def settled(self) -> Plan | None:
        """Return the plan with each row at its best point; None while the search goes on.

        Raises:
            InputError: no trial of a row ran to its end with finite numbers.
        """
        if not all(row.has_ended for row in self._rows):
            return None
        rows = {
            row.variant: dataclasses.replace(row.tuned, choice=row.choice()) for row in self._rows
        }
        chosen = {variant: row.choice.settings for variant, row in rows.items() if row.choice}
        return dataclasses.replace(
            self._plan,
            tuning=dataclasses.replace(self._tuning, rows=rows),
            trials=tuple(_at(trial, chosen.get(trial.variant, {})) for trial in self._plan.trials),
        )


def _at(trial: Trial, values: Mapping[str, float]) -> Trial:
    if not values:
        return trial
    return dataclasses.replace(trial, config=with_values(trial.config, values))


def _known_trials(store: Store, plan: Plan, tuning: PlannedTuning) -> dict[str, list[Trial]]:
    """Return each row's stored tuning trials, in their order: those that this plan would make."""
    known: dict[str, list[Trial]] = {variant: [] for variant in tuning.rows}
    if (stored := store.tuning_plan(plan)) is None:
        return known
    for variant, row in tuning.rows.items():
        if not _searches_alike(stored.tuning, tuning, variant):
            continue
        open_trial = plan.trials_of(variant)[0]
        for trial in stored.trials_of(variant)[: tuning.trials]:
            again = tuning_trial(tuning, open_trial, values_of(trial, row.space))
            if again.key == trial.key:
                known[variant].append(again)
    return known


def _searches_alike(stored: PlannedTuning | None, now: PlannedTuning, variant: str) -> bool:
    """Return whether a row's stored proposals are those of the search as it is stated now."""
    if stored is None or variant not in stored.rows:
        return False

    def frame(tuning: PlannedTuning) -> tuple[object, ...]:
        return (tuning.seed, tuning.round_size, tuning.pruner, tuning.rows[variant].space)

    return frame(stored) == frame(now)


class _Row:
    """One row's search."""

    def __init__(
        self,
        store: Store,
        tuning: PlannedTuning,
        open_trial: Trial,
        trials: list[Trial],
        max_attempts: int | None,
    ) -> None:
        self.variant = open_trial.variant
        self.tuned: TunedRow = tuning.rows[self.variant]
        self.trials = trials
        self.search = Search(
            self.tuned.space,
            seed=tuning.seed,
            round_size=tuning.round_size,
            pruner=tuning.pruner,
            steps=tuning.steps,
            first_step=tuning.validate_every,
        )
        self._store, self._tuning, self._open_trial = store, tuning, open_trial
        self._max_attempts = max_attempts
        self._diverged: set[str] = set()  # keys
        self._courses: dict[str, Course] = {}  # by key, of the trials that have ended

    @property
    def has_ended(self) -> bool:
        """Whether the whole budget was spent: the same for every row."""
        return len(self.search.ended) == self._tuning.trials

    def advance(self) -> bool:
        """End rounds, prune, and propose the next round; return whether there are new trials."""
        self._catch_up()
        start = len(self.search.ended)
        due = min(start + self._tuning.round_size, self._tuning.trials)
        begun = len(self.trials)
        while len(self.trials) < due:
            values = self.search.propose([self._values(each) for each in self.trials[start:]])
            self.trials.append(tuning_trial(self._tuning, self._open_trial, values))
        return len(self.trials) > begun

    def _catch_up(self) -> None:
        """Conclude the rounds whose trials have all ended."""
        while not self.has_ended:
            start = len(self.search.ended)
            size = min(self._tuning.round_size, self._tuning.trials - start)
            trials = self.trials[start : start + size]
            for place, trial in enumerate(trials):
                course = self._courses.get(trial.key) or self._course(place, trial)
                if course is not None:
                    self._courses[trial.key] = course
            if len(trials) < size or not all(trial.key in self._courses for trial in trials):
                return
            self.search.conclude([self._courses[trial.key] for trial in trials])

    def _values(self, trial: Trial) -> dict[str, float]:
        return values_of(trial, self.tuned.space)

    def _course(self, place: int, trial: Trial) -> Course | None:
        """Return the course of a trial that has ended; None of one that has not.

        A trial counts as pruned where its course says so, however far it came before it was told.
        """
        key, store = trial.key, self._store
        accuracies = {
            step: each.accuracy
            for step, each in validations(store, key).items()
            if not each.is_last
        }
        course = Course(self._values(trial), accuracies)
        result = store.result(key)
        if (step := self.search.judge(place, course)) is not None:
            if result is None:
                store.prune(key, step)
            return course
        if result is not None:
            return dataclasses.replace(course, accuracy=result.metrics["val/accuracy"])
        if store.has_failed(key, self._max_attempts):
            if store.failures(key)[-1].ended == "not_finite":
                self._diverged.add(key)
                return course
        elif store.is_pruned(key) and not store.is_running(key):
            store.revive(key)  # other results than today's had spoken against it
        return None

    def choice(self) -> Choice:
        """Return the best point: by accuracy on validation items, then by loss, then the first.

        Raises:
            InputError: no trial ran to its end with finite numbers.
        """
        survivors = self.search.survivors()
        found = [(n, r) for n in survivors if (r := self._result(n)) is not None]
        if not found:
            raise InputError(
                f"every tuning trial of {self.variant} diverged; lower tuning.search: "
                f"{', '.join(self.tuned.space)}."
            )
        number, best = max(found, key=lambda each: _merit(each[1]))
        return Choice(
            settings=self._values(self.trials[number]),
            accuracy=best.metrics["val/accuracy"],
            pruned=len(self.trials) - len(survivors),
            diverged=len(self._diverged),
        )

    def _result(self, number: int) -> TrialResult | None:
        return self._store.result(self.trials[number].key)


def _merit(result: TrialResult) -> tuple[float, float]:
    return result.metrics["val/accuracy"], -result.metrics["val/loss"]
