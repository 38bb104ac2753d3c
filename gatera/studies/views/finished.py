"""All that a table needs of a finished trial: from the index, or from the trial's own files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean

from gatera.errors import InputError
from gatera.studies.store.index import Answers, Entry, Marks, Points, details_of
from gatera.studies.store.staleness import stale_files
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import signature
from gatera.trial import Json, Trial, TrialResult


def read_finished(store: Store, trial: Trial) -> Entry:
    """Return what there is of a finished trial, and note it for the index.

    Raises:
        LookupError: the trial has no result that is whole.
        InputError: its scores are not those of its predictions.
    """
    if (known := store.indexed(trial.key)) is not None:
        return known
    marks = _marks(store, trial.key)  # before anything is read
    result, sha256 = store.result(trial.key), store.result_sha256(trial.key)
    if result is None or sha256 is None:
        raise LookupError(f"trial {trial.key} has no result")
    answers = _answers(store, result)
    _check_scores(store, result, answers)
    points = _points(store.metrics(*each) for each in _trained_in(store, trial, result))
    entry = Entry(
        marks=marks,
        sha256=sha256,
        result=result,
        is_current=not stale_files(trial, result),
        newest=store.claims.newest(trial.key),
        seconds=store.seconds(trial.key),
        trained_seconds=_seconds_of_another(store, trial),
        details=details_of(answers, points["train/loss"], points["val/accuracy"]),
    )
    store.index.note(trial.key, entry)
    return entry


def _marks(store: Store, key: str) -> Marks | None:
    """Return what tells whether a finished trial's files are as they are now.

    None while an attempt has not said how it ended: nothing but its record would change then.
    """
    folder, result = signature(store.trial_folder(key)), store.result(key)
    if result is None or len(store.records(key)) < len(store.claims.attempts(key)):
        return None
    predictions = store.predictions_path(key, result.attempt)
    return Marks(folder, signature(store.result_path(key)), signature(predictions))


def _trained_in(store: Store, trial: Trial, result: TrialResult) -> list[tuple[str, int]]:
    """Return (key, attempt) of the attempts that a trial's training went through.

    An interrupted one goes on in the next; weights may be those of another trial.
    """
    key, last = store.weights.maker(trial.training_key) or (trial.key, result.attempt)
    if key == trial.key:
        last = result.attempt
    return [(key, n) for n in store.claims.attempts(key) if n <= last]


def _seconds_of_another(store: Store, trial: Trial) -> float:
    """Return how long the training of a trial's weights took, where another trial did it."""
    maker = store.weights.maker(trial.training_key)
    if maker is None or maker[0] == trial.key:
        return 0.0
    trained = store.weights.recorded(trial.training_key)
    measured = {} if trained is None else trained.measured
    return sum(float(measured.get(name) or 0.0) for name in ("train_seconds", "validation_seconds"))


def _answers(store: Store, result: TrialResult) -> Answers:
    """Return task -> item -> whether right, from the stored predictions.

    The store gives a result only where its predictions are those that it was computed from.
    """
    import pyarrow.parquet

    path = store.predictions_path(result.key, result.attempt)
    table = pyarrow.parquet.read_table(path, columns=["task", "index", "correct"])
    answers: dict[str, dict[int, bool]] = {}
    for task, index, correct in zip(*(each.to_pylist() for each in table.columns), strict=True):
        answers.setdefault(task, {})[index] = correct
    return answers


def _check_scores(store: Store, result: TrialResult, answers: Answers) -> None:
    """Refuse a result whose shares of right answers are not those of its predictions."""
    for task, right in answers.items():
        stated, counted = result.metrics[f"test/accuracy/{task}"], fmean(right.values())
        if not math.isclose(stated, counted, abs_tol=1e-9):
            raise InputError(
                f"the result of trial {result.key} says that {100 * stated:.2f} % of {task} are "
                f"right, its predictions {100 * counted:.2f} %: one of them is not what was "
                f"measured. Move {store.trial_folder(result.key)} away, and `run` measures again."
            )


def _points(attempts: Iterable[list[dict[str, Json]]]) -> Mapping[str, Points]:
    """Return the curves of a trial; a later attempt's value of a step replaces an earlier's."""
    found: dict[str, dict[int, float]] = {"train/loss": {}, "val/accuracy": {}}
    for lines in attempts:
        for line in lines:
            for name, points in found.items():
                if isinstance(value := line.get(name), int | float):
                    points[int(line["step"])] = float(value)
    return {name: tuple(sorted(points.items())) for name, points in found.items()}
