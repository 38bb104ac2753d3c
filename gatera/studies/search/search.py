"""Optuna as a searcher: what a row's tuning tries next, and which of its trials are pruned.

A search lives in memory alone, and knows nothing of the store.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from gatera.studies.planning.configuration import Range
from gatera.trial import sha256_of


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
        self._space = distributions_of(space)
        self._seed, self._round_size = seed, round_size
        self._pruner = _pruner(pruner, round_size, steps, first_step)
        self.ended: list[FrozenTrial] = []  # of the rounds that are over, by number

    def propose(self, known: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return values to try next, beside those `known` of the same round."""
        with quiet():
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
        with quiet():
            trial, pruned = self._follow(place, course)
        return trial.last_step if pruned else None

    def conclude(self, courses: Sequence[Course]) -> None:
        """End a round: its trials' courses are whole."""
        with quiet():
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


def distributions_of(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """Return a search space as Optuna has it."""
    return {
        name: FloatDistribution(each.low, each.high, log=each.log) for name, each in space.items()
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's own log lines, one a trial, out of the progress."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
