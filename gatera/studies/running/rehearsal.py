"""A rehearsal: every row for a few steps and items, and what the whole study would then take.

It checks what a long run could fail by after hours: data, memory, speed. From the times that it
measures the whole is computed: where training takes `step` seconds a step, a validation
`validation` seconds and a test item `item` seconds, a trial takes

    start + steps x step + validations x validation + items x item

and `start` is what is left of the rehearsed trial: loading, and what does not grow with the study.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from gatera import tasks
from gatera.settings import TUNING, TrainSettings
from gatera.studies.asking import Asked
from gatera.studies.planning.plan import Plan
from gatera.studies.running.carried_out import carry_out
from gatera.studies.running.supervisor import RunOptions
from gatera.studies.store.snapshot import Snapshot
from gatera.studies.store.store import Store
from gatera.studies.views.progress import duration, failure_lines
from gatera.terminal import table_lines
from gatera.training.optimization.rates import total_steps
from gatera.trial import Json, Trial

if TYPE_CHECKING:
    import pandas as pd

STEPS, ITEMS = 20, 20  # of each row; items of each task
_FIRST = 5  # steps that are slower than those after them
_CUT: Mapping[str, Json] = {
    "train.max_steps": STEPS,
    "train.epochs": None,
    "train.validation_every": STEPS // 2,
    "train.average_last": None,
    "eval.limit": ITEMS,
}


@dataclass(frozen=True)
class RowTimes:
    """What a row took, and what one of its trials would."""

    variant: str
    step_seconds: float | None  # None where the row trains nothing of its own
    validation_seconds: float | None  # of one validation
    item_seconds: float  # of a test item
    start_seconds: float  # what does not grow with the study
    peak_memory_bytes: int
    trial_seconds: float  # of a whole one
    trials: int  # how many there are


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found."""

    plan: Plan  # the whole study
    times: tuple[RowTimes, ...]  # of the rows that could be rehearsed
    seconds: float  # of the whole study, one trial after another, tuning included
    failures: tuple[str, ...]  # lines about what failed: such rows would fail in the study too
    folder: Path  # the rehearsal's store

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """A line a row, with units in the names of the columns."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(each) for each in self.times])

    @property
    def text(self) -> str:
        """What `run --rehearse` prints."""
        head = ("row", "a step", "a validation", "a test item", "peak memory", "a trial", "trials")
        rows = [head, *(_cells(each) for each in self.times)]
        tuning = f", {self.plan.tuning.total} tuning trials" if self.plan.tuning is not None else ""
        return "\n".join(
            [
                f"rehearsal of {self.plan.id}: {STEPS} steps and {ITEMS} items of each task",
                "",
                *table_lines(rows, right=set(range(1, len(head)))),
                "",
                f"the whole, {len(self.plan.trials)} trials{tuning}: "
                f"{duration(self.seconds)} of one worker",
                "Computed from these times. Test items in full batches take less than these, and "
                "memory may rise where a batch holds longer items than those seen.",
            ]
        )

    def __repr__(self) -> str:
        """Return what `run --rehearse` prints."""
        return "\n".join([self.text, *self.failures])


def _cells(row: RowTimes) -> tuple[str, ...]:
    return (
        row.variant,
        _seconds(row.step_seconds),
        _seconds(row.validation_seconds),
        _seconds(row.item_seconds),
        f"{row.peak_memory_bytes / 2**20:,.0f} MiB",
        duration(row.trial_seconds),
        str(row.trials),
    )


def _seconds(value: float | None) -> str:
    return "\N{EM DASH}" if value is None else f"{value:.3g} s"


def rehearsed(
    asking: Asked,
    folder: Path,
    *,
    launcher: str,
    workers: int | None,
    workers_per_gpu: int,
    slurm: str,
) -> Rehearsal:
    """Rehearse what is asked, in a store beside `folder`; done again, it measures nothing again.

    Raises:
        InputError: what is asked cannot be run.
        KeyboardInterrupt: interrupted.
    """
    plan = asking.plan(strict=True)
    beside = folder.with_name(f"{folder.name}-rehearsal")
    options = RunOptions(
        claim_timeout=3600.0, max_attempts=1, tracking_uri="none", report_dir=beside / "reports"
    )
    store, outcome = carry_out(
        cut(asking),
        beside,
        options,
        launcher=launcher,
        workers=workers,
        workers_per_gpu=workers_per_gpu,
        slurm=slurm,
    )
    return _found(plan, store, outcome.snapshot, asking.request.data_root)


def cut(asking: Asked) -> Asked:
    """Return the rehearsal of what is asked: all rows, one seed, untuned, cut short."""
    study, request = asking.loaded.study, asking.request
    variants = tuple(
        dataclasses.replace(
            row,
            changes={name: value for name, value in row.changes.items() if name not in _CUT},
            confounds=tuple(name for name in row.confounds if name not in _CUT),
        )
        for row in study.variants
    )
    kept = {n: v for n, v in request.overrides.items() if not n.startswith(f"{TUNING}.")}
    return dataclasses.replace(
        asking,
        loaded=dataclasses.replace(
            asking.loaded, study=dataclasses.replace(study, variants=variants, tuning=None)
        ),
        request=dataclasses.replace(request, seeds=1, overrides={**kept, **_CUT}),
    )


def _found(plan: Plan, store: Store, snapshot: Snapshot, data_root: Path | None) -> Rehearsal:
    """Return what the whole would take by the times of the rehearsed trials."""
    done = {t.variant: t for t in snapshot.plan.trials if store.result(t.key) is not None}
    measured = {variant: _Measured(store, trial) for variant, trial in done.items()}
    by_weights = {
        done[variant].training_key: of_row
        for variant, of_row in measured.items()
        if of_row.step is not None
    }
    sizes = _Sizes(data_root)
    times: list[RowTimes] = []
    seconds, trained = 0.0, set[str]()
    for variant in plan.changes:
        if variant not in done:
            continue
        of_row, trials = measured[variant], plan.trials_of(variant)
        training = by_weights.get(done[variant].training_key)
        scoring = of_row.start + sizes.items(trials[0]) * of_row.item
        learning = 0.0 if training is None else training.learning(sizes.steps(trials[0]), trials[0])
        keys = {trial.training_key for trial in trials} - trained
        trained |= keys
        seconds += len(trials) * scoring + (0.0 if training is None else len(keys) * learning)
        seconds += _tuning_seconds(plan, variant, of_row, sizes)
        times.append(
            RowTimes(
                variant,
                of_row.step,
                of_row.validation,
                of_row.item,
                of_row.start,
                of_row.peak_memory_bytes,
                scoring + (learning if keys else 0.0),
                len(trials),
            )
        )
    return Rehearsal(plan, tuple(times), seconds, tuple(failure_lines(snapshot)), store.folder)


def _tuning_seconds(plan: Plan, variant: str, of_row: _Measured, sizes: _Sizes) -> float:
    tuning = plan.tuning
    if tuning is None or variant not in tuning.rows:
        return 0.0
    trial = plan.trials_of(variant)[0]
    steps = tuning.steps or sizes.steps(trial)
    each = of_row.start + of_row.learning(steps, trial, tuning.validate_every)
    return tuning.trials * tuning.seeds * each


class _Measured:
    """The times of one rehearsed trial."""

    def __init__(self, store: Store, trial: Trial) -> None:
        result = store.result(trial.key)
        assert result is not None
        lines = store.metrics(trial.key, result.attempt)
        by_phase: dict[str, list[Mapping[str, Json]]] = {"train": [], "validate": [], "test": []}
        for line in lines:
            by_phase[line["phase"]].append(line)
        self.step = _step_seconds(by_phase["train"], by_phase["validate"])
        validations = len(by_phase["validate"])
        spent = float(result.measured.get("validation_seconds", 0.0))
        self.validation = spent / validations if validations and self.step is not None else None
        last = by_phase["test"][-1]
        self.item = float(last["seconds"]) / int(last["answered"])
        self.peak_memory_bytes = int(result.measured["peak_memory_bytes"])
        worked = STEPS * (self.step or 0.0) + validations * (self.validation or 0.0)
        whole = store.seconds(trial.key)
        self.start = max(0.0, whole - worked - float(last["seconds"]))

    def learning(self, steps: int, trial: Trial, validate_every: int | None = None) -> float:
        """Return the seconds of a training of so many steps."""
        every = validate_every or trial.config["train"]["validation_every"]
        return steps * (self.step or 0.0) + -(-steps // every) * (self.validation or 0.0)


def _step_seconds(
    trained: list[Mapping[str, Json]], validated: list[Mapping[str, Json]]
) -> float | None:
    """Return the mean seconds of a step, without the first ones and what validations took."""
    at = {int(line["step"]): float(line["seconds"]) for line in trained}
    after = {int(line["step"]) + 1 for line in validated}
    found = [
        at[step] - at[step - 1]
        for step in sorted(at)
        if step > _FIRST and step - 1 in at and step not in after
    ]
    return fmean(found) if found else None


class _Sizes:
    """How much the whole study reads: its items, counted in its files."""

    def __init__(self, data_root: Path | None) -> None:
        self._root = data_root
        self._counted: dict[tuple[str, str], int] = {}

    def _count(self, task: str, split: str) -> int:
        if (task, split) not in self._counted:
            self._counted[task, split] = len(tasks.load(task, split, self._root))
        return self._counted[task, split]

    def items(self, trial: Trial) -> int:
        """Return the test items that a trial answers."""
        limit = trial.config["eval"]["limit"]
        counts = [self._count(task, "test") for task in trial.config["data"]["tasks"]]
        return sum(count if limit is None else min(count, limit) for count in counts)

    def steps(self, trial: Trial) -> int:
        """Return the optimizer steps that a trial takes."""
        settings = TrainSettings(**trial.config["train"])
        if settings.epochs is None:
            return total_steps(settings, 0)
        items = sum(self._count(task, "train") for task in trial.config["data"]["train_tasks"])
        return total_steps(settings, (items - settings.validation_items) // settings.batch_size)
