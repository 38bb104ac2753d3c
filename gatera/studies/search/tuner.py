"""Carrying out a plan's tuning phase on a store: rounds of trials for each row, then its choice.

The stored plan `<plan id>.tuning` holds the trials proposed so far. With what the store says of
them it is all that there is to know: killed at any moment, the phase goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean

from gatera.errors import InputError
from gatera.studies.planning.configuration import with_values
from gatera.studies.planning.plan import Plan
from gatera.studies.planning.tuning import Choice, PlannedTuning, TunedRow, tuning_trials, values_of
from gatera.studies.search.search import Course, Search
from gatera.studies.store.snapshot import Snapshot, take_snapshot, validations
from gatera.studies.store.store import Store
from gatera.trial import Trial


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
        trials = stored.trials_of(variant)
        for first in range(0, tuning.trials * tuning.seeds, tuning.seeds):
            point = trials[first : first + tuning.seeds]
            again = (
                tuning_trials(tuning, open_trial, values_of(point[0], row.space)) if point else []
            )
            if again and [each.key for each in again] == [each.key for each in point]:
                known[variant] += again
    return known


def _searches_alike(stored: PlannedTuning | None, now: PlannedTuning, variant: str) -> bool:
    """Return whether a row's stored proposals are those of the search as it is stated now."""
    if stored is None or variant not in stored.rows:
        return False

    def frame(tuning: PlannedTuning) -> tuple[object, ...]:
        row = tuning.rows[variant]
        return (tuning.seed, tuning.seeds, tuning.round_size, tuning.pruner, row.space, row.start)

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
        self._points = [
            trials[first : first + tuning.seeds] for first in range(0, len(trials), tuning.seeds)
        ]
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
        self._diverged: set[int] = set()  # numbers of points
        self._courses: dict[int, Course] = {}  # by number, of the points whose trials have ended

    @property
    def trials(self) -> list[Trial]:
        """The trials proposed so far: of each point one a tuning seed."""
        return [trial for point in self._points for trial in point]

    @property
    def has_ended(self) -> bool:
        """Whether the whole budget was spent: the same for every row."""
        return len(self.search.ended) == self._tuning.trials

    def advance(self) -> bool:
        """End rounds, prune, and propose the next round; return whether there are new trials."""
        self._catch_up()
        start = len(self.search.ended)
        due = min(start + self._tuning.round_size, self._tuning.trials)
        begun = len(self._points)
        while len(self._points) < due:
            values = self._next(self._points[start:])
            self._points.append(tuning_trials(self._tuning, self._open_trial, values))
        return len(self._points) > begun

    def _next(self, of_round: Sequence[list[Trial]]) -> Mapping[str, float]:
        """Return what is tried next, beside the points of the same round.

        The first of all is the row as it would be untuned: no row is tuned to be worse than that,
        as far as validation can tell.
        """
        if not self._points and self.tuned.start is not None:
            return self.tuned.start
        return self.search.propose([self._values(each) for each in of_round])

    def _catch_up(self) -> None:
        """Conclude the rounds whose trials have all ended."""
        while not self.has_ended:
            start = len(self.search.ended)
            size = min(self._tuning.round_size, self._tuning.trials - start)
            numbers = range(start, min(start + size, len(self._points)))
            for number in numbers:
                course = self._courses.get(number) or self._course(number, number - start)
                if course is not None:
                    self._courses[number] = course
            if len(numbers) < size or not all(number in self._courses for number in numbers):
                return
            self.search.conclude([self._courses[number] for number in numbers])

    def _values(self, point: list[Trial]) -> dict[str, float]:
        return values_of(point[0], self.tuned.space)

    def _course(self, number: int, place: int) -> Course | None:
        """Return the course of a point whose trials have all ended; None of another.

        It is the mean over the point's trials, at the steps where all were validated. A point
        counts as pruned where its course says so, however far it came before it was told.
        """
        point, store = self._points[number], self._store
        course = Course(self._values(point), _mean_course([_curve(store, each) for each in point]))
        results = [store.result(trial.key) for trial in point]
        if (step := self.search.judge(place, course)) is not None:
            self._give_up(point, step)
            return course
        if all(result is not None for result in results):
            accuracy = fmean(r.metrics["val/accuracy"] for r in results if r is not None)
            return dataclasses.replace(course, accuracy=accuracy)
        failed = [each for each in point if store.has_failed(each.key, self._max_attempts)]
        if any(store.failures(each.key)[-1].ended == "not_finite" for each in failed):
            self._diverged.add(number)
            self._give_up(point, max(course.validations, default=0))
            return course
        for trial in point:
            if store.is_pruned(trial.key) and not store.is_running(trial.key):
                store.revive(trial.key)  # other results than today's had spoken against it
        return None

    def _give_up(self, point: list[Trial], step: int) -> None:
        """Let the trials of a point that have not ended run no further."""
        for trial in point:
            if self._store.result(trial.key) is None:
                self._store.prune(trial.key, step)

    def choice(self) -> Choice:
        """Return the best point: by accuracy on validation items, then by loss, then the first.

        Raises:
            InputError: no trial ran to its end with finite numbers.
        """
        survivors = self.search.survivors()
        found = [(n, merit) for n in survivors if (merit := self._merit(n)) is not None]
        if not found:
            raise InputError(
                f"every tuning trial of {self.variant} diverged; lower tuning.search: "
                f"{', '.join(self.tuned.space)}."
            )
        number, (accuracy, _) = max(found, key=lambda each: each[1])
        return Choice(
            settings=self._values(self._points[number]),
            accuracy=accuracy,
            pruned=len(self._points) - len(survivors),
            diverged=len(self._diverged),
        )

    def _merit(self, number: int) -> tuple[float, float] | None:
        """Return a point's mean accuracy, and its mean loss, negative; None without results."""
        results = [self._store.result(trial.key) for trial in self._points[number]]
        whole = [result for result in results if result is not None]
        if len(whole) < len(results):
            return None
        metrics = [result.metrics for result in whole]
        return (
            fmean(each["val/accuracy"] for each in metrics),
            -fmean(each["val/loss"] for each in metrics),
        )


def _curve(store: Store, trial: Trial) -> dict[int, float]:
    """Return step -> accuracy of a trial's validations, but for the one at its end."""
    found = validations(store, trial.key).items()
    return {step: each.accuracy for step, each in found if not each.is_last}


def _mean_course(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    common = set.intersection(*(set(curve) for curve in curves))
    return {step: fmean(curve[step] for curve in curves) for step in sorted(common)}
