"""What an experiment tracker shows of a trial, in plain values under names that trackers take.

Its settings, the data it reads, the points of its course, what it measured, and where it is from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gatera.trial import Json, Trial, TrialResult

VALIDATED = "val/accuracy"
LIVE = ("train/loss", "train/entropy", VALIDATED, "gate/mean", "learning_rate")  # a trial's course

_ITEMS = "items that train and validate"
_MOST_POINTS = 500  # of a trial's course, of each metric
_LONGEST = 500  # characters of a setting
_DIGITS = 16


@dataclass(frozen=True)
class DataSet:
    """What a trial reads: one split of a task, or the items of all that it trains on."""

    name: str
    context: str  # what for: train, test, or train and validation
    sha256: str  # that the trial's key rests on

    @property
    def digest(self) -> str:
        """The first digits of its hash, as reports print them."""
        return self.sha256[:_DIGITS]


def settings_of(trial: Trial) -> dict[str, str]:
    """Return "section.field" -> value of a trial's configuration, and its seed, as text."""
    return texts({**dict(_flat(trial.config)), "seed": trial.seed})


def texts(settings: Mapping[str, Json]) -> dict[str, str]:
    """Return settings as text of a length that trackers take."""
    return {name: str(value)[:_LONGEST] for name, value in settings.items()}


def _flat(config: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    for section, fields in config.items():
        if isinstance(fields, Mapping):
            yield from ((f"{section}.{name}", value) for name, value in fields.items())
        else:
            yield section, fields


def data_sets(trial: Trial) -> list[DataSet]:
    """Return the data sets of a trial, from its identities: nothing is read."""
    identities = trial.identities
    found = [
        DataSet(task, split, sha256)
        for task, splits in identities.get("data", {}).items()
        for split, sha256 in splits.items()
        if sha256 is not None
    ]
    if identities.get("items"):  # of all tasks together, without those that a test set asks too
        found.append(DataSet(_ITEMS, "train and validation", identities["items"]))
    return found


def scored_on(trial: Trial, metric: str) -> DataSet | None:
    """Return the data set that "test/<score>/<task>" was measured on; None of another metric."""
    kind, _, rest = metric.partition("/")
    named = (kind, rest.partition("/")[2])
    return next((each for each in data_sets(trial) if (each.context, each.name) == named), None)


def live_points(line: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Yield name, value and step of each live metric in a line of metrics.jsonl.

    Of a long training every so many steps alone, but each validation: MLflow takes a few hundred
    points a second.
    """
    step, last = int(line.get("step") or 0), int(line.get("max_steps") or 0)
    thinned = step != last and step % max(1, math.ceil(last / _MOST_POINTS))
    for name in LIVE:
        if isinstance(line.get(name), int | float) and (name == VALIDATED or not thinned):
            yield name, float(line[name]), step


def numbers_of(result: TrialResult) -> dict[str, float]:
    """Return what a finished trial measured, the time and the gates by token too."""
    numbers = {**result.metrics, **_numbers("measured", result.measured)}
    for tokens in ("overall", "prompt", "answer"):
        numbers |= _numbers(f"gate/{tokens}", result.gates.get(tokens, {}))
    return numbers


def _numbers(prefix: str, values: Mapping[str, Json]) -> dict[str, float]:
    """Return the numbers among `values`, named `<prefix>/<name>`."""
    return {
        f"{prefix}/{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def source_of(result: TrialResult) -> dict[str, str]:
    """Return MLflow's tags of the commit that made a result; none where it is not known.

    That of the training, where something was trained; a package has none.
    """
    known = (part for part in result.parts.values() if part.get("commit"))
    part = next(known, None)
    if part is None:
        return {}
    dirty = str(bool(part.get("dirty")))
    return {"mlflow.source.git.commit": part["commit"], "mlflow.source.git.dirty": dirty}


def how_to_load(trial: Trial, study: str, place: str, *, is_there: bool) -> str:
    """Return how to load a trial's adapter, in markdown.

    Args:
        trial: Whose adapter it is.
        study: The name of its study.
        place: Its folder in the store.
        is_there: Whether it is among the tracker's files.
    """
    if is_there:
        return (
            f"The adapter as it was saved; its files are those of the store, in `{place}`, and no "
            "copies. After `import gatera.adapter`, `PeftModel.from_pretrained(backbone, "
            "mlflow.artifacts.download_artifacts(model.model_uri))` loads it."
        )
    return (
        f"The adapter is in the store that made this run, in `{place}`, and not here. There, "
        f"`python -m gatera.studies export {study} {trial.variant} {trial.seed}`, with the options "
        "of the run, copies it."
    )
