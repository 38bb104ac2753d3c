"""All that a table needs of a finished trial: from the index, or from the trial's own files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from gatera import tasks
from gatera.errors import InputError
from gatera.studies.store.index import Contents, Entry, Items, Marks, Points, details_of
from gatera.studies.store.snapshot import scoring_seconds
from gatera.studies.store.staleness import stale_files
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import signature
from gatera.trial import Json, Trial, TrialResult


def read_finished(store: Store, trial: Trial) -> tuple[Entry, Contents]:
    """Return what there is of a finished trial, and note it for the index.

    Raises:
        LookupError: the trial has no result that is whole.
        InputError: its scores are not those of its predictions.
    """
    known = store.indexed(trial.key)
    if known is not None and (contents := store.index.contents(trial.key)) is not None:
        return known, contents
    marks = _marks(store, trial.key)  # before anything is read
    result, sha256 = store.result(trial.key), store.result_sha256(trial.key)
    if result is None or sha256 is None:
        raise LookupError(f"trial {trial.key} has no result")
    found = read_predictions(store, result)
    _check_scores(store, result, found)
    points = _points(store.metrics(*each) for each in _trained_in(store, trial, result))
    entry = Entry(
        marks=marks,
        sha256=sha256,
        predictions_sha256=result.predictions_sha256,
        attempt=result.attempt,
        newest=store.claims.newest(trial.key),
        is_current=not stale_files(trial, result),
        is_frozen=result.is_frozen,
        seconds=store.seconds(trial.key),
        trained_seconds=_seconds_of_another(store, trial),
        scoring_seconds=scoring_seconds(result),
    )
    details = details_of(found.scores, found.log_probabilities, points)
    contents = Contents(result, details)
    store.index.note(trial.key, entry, contents)
    return entry, contents


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


CURVES = ("train/loss", "val/accuracy", "knowledge/loss")  # logged values that tables read


@dataclass(frozen=True)
class StoredPredictions:
    """What statistics read of a trial's predictions: task -> item -> value."""

    scores: Items
    log_probabilities: Items  # of the tasks whose items have options


def read_predictions(store: Store, result: TrialResult) -> StoredPredictions:
    """Read the stored predictions.

    The store gives a result only where its predictions are those that it was computed from.
    """
    columns = read_columns(store, result, *SCORES, "log_probability")
    scores = scores_in(columns)
    log_probabilities = columns.get("log_probability", [None] * len(scores))
    return StoredPredictions(_by_task(columns, scores), _by_task(columns, log_probabilities))


SCORES = ("correct", "score")  # columns that say what answers are worth


def scores_in(columns: Mapping[str, Sequence[Json]]) -> list[float]:
    """Return what each answer is worth, from 0 to 1."""
    # Predictions of before there were metrics have right and wrong answers alone.
    return [float(score) for score in columns.get("score", columns["correct"])]


def read_clusters(store: Store, result: TrialResult) -> Mapping[str, Mapping[int, str]]:
    """Return task -> item -> what it asks about, "" where it stands alone, from the predictions."""
    columns = read_columns(store, result, "cluster")
    # Predictions of before there were clusters have none.
    return _by_task(columns, columns.get("cluster", [None] * len(columns["task"])))


def read_columns(store: Store, result: TrialResult, *wanted: str) -> dict[str, list[Json]]:
    """Return columns of the predictions by name: task, index, and those wanted that there are."""
    import pyarrow.parquet

    path = store.predictions_path(result.key, result.attempt)
    there = pyarrow.parquet.read_schema(path).names
    names = [name for name in ("task", "index", *wanted) if name in there]
    table = pyarrow.parquet.read_table(path, columns=names)
    return {name: table.column(name).to_pylist() for name in names}


def _by_task(
    columns: Mapping[str, Sequence[Json]], values: Sequence[Json]
) -> dict[str, dict[int, Json]]:
    """Return task -> item -> value, without values that are not there."""
    found: dict[str, dict[int, Json]] = {}
    for task, index, value in zip(columns["task"], columns["index"], values, strict=True):
        if value is not None:
            found.setdefault(task, {})[index] = value
    return found


def _check_scores(store: Store, result: TrialResult, found: StoredPredictions) -> None:
    """Refuse a result whose scores are not the means of those of its predictions."""
    for task, scores in found.scores.items():
        name = f"test/{tasks.find(task).metric.name}/{task}"
        stated, counted = result.metrics[name], fmean(scores.values())
        if not math.isclose(stated, counted, abs_tol=1e-9):
            raise InputError(
                f"the result of trial {result.key} says that {name} is {100 * stated:.2f} %, its "
                f"predictions {100 * counted:.2f} %: one of them is not what was measured. Move "
                f"{store.trial_folder(result.key)} away, and `run` measures again."
            )


def _points(attempts: Iterable[list[dict[str, Json]]]) -> Mapping[str, Points]:
    """Return the curves of a trial; a later attempt's value of a step replaces an earlier's."""
    found: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    for lines in attempts:
        for line in lines:
            for name, points in found.items():
                if isinstance(value := line.get(name), int | float):
                    points[int(line["step"])] = float(value)
    return {name: tuple(sorted(points.items())) for name, points in found.items()}
