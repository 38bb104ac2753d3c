"""What a report is made of: one record a study, with its rows, trials and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gatera.errors import InputError
from gatera.trial import Json, TrialResult

# Fields of the provenance of training, and of scoring, that must agree among the trials of one
# table, each with the setting that changes it by a row's own declaration; None: no setting may.
COMPARED: Mapping[str, str | None] = {
    "versions": None,
    "device": None,
    "processor": None,  # the GPU's name, or what the CPU can do
    "dtype": "train.dtype",
    "threads": None,
    "loss_mask": "train.loss_mask",
}
# The same for what stands in the result's identities.
COMPARED_IDENTITIES: Mapping[str, str | None] = {
    "backbone": "backbone.name",  # weights and tokenizer
    "template": "data.template",
}


@dataclass(frozen=True)
class Curves:
    """How one trial went: points of (optimizer step, value)."""

    train_loss: tuple[tuple[int, float], ...] = ()  # nats a token
    accuracy: tuple[tuple[int, float], ...] = ()  # on the validation items
    knowledge: tuple[tuple[int, float], ...] = ()  # loss on held-out text, nats a token


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a row."""

    seed: int
    state: str  # done, stale, running, failed, pruned or waiting
    result: TrialResult | None  # None unless done
    reason: str | None = None  # why there is no result, where it failed
    failure_kind: str | None = None  # out_of_memory, not_finite, killed or bug
    last_lines: tuple[str, ...] = ()  # of the log of an attempt that failed, without local paths
    items: Mapping[str, Mapping[int, float]] | None = None  # task -> item -> its endpoint
    curves: Curves = Curves()
    seconds: float | None = None  # of training and scoring, in all attempts


@dataclass(frozen=True)
class TuningRecord:
    """How a row's settings were chosen on validation data, before the seeds ran."""

    trials: int  # budget: tuning trials of this row, the same for each
    chosen: Mapping[str, Json]  # "section.field" -> value
    edges: tuple[str, ...] = ()  # fields whose chosen value lies at an edge of the search space
    steps: int | None = None  # optimizer steps of one tuning trial; None: those of the seeds
    pruned: int = 0  # tuning trials that were ended early
    diverged: int = 0  # tuning trials whose loss was not finite any more
    searched: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # field -> its range
    # What the choice rests on; results of other code are told of in a note, and stand apart.
    results: tuple[TrialResult, ...] = ()
    seeds: int = 1  # that each tuning trial was run with


@dataclass(frozen=True)
class RowRecord:
    """One row: a variant with its trials, ordered by seed."""

    variant: str
    changes: Mapping[str, Json]
    trials: tuple[TrialRecord, ...]
    tuning: TuningRecord | None = None  # None where nothing was tuned
    confounds: tuple[str, ...] = ()  # changed settings that are not the row's question

    @property
    def results(self) -> dict[int, TrialResult]:
        """Return the results by seed."""
        return {trial.seed: trial.result for trial in self.trials if trial.result is not None}

    @property
    def items(self) -> dict[int, Mapping[str, Mapping[int, float]]]:
        """Return the items' endpoints by seed, of the trials that have them."""
        return {trial.seed: trial.items for trial in self.trials if trial.items is not None}


@dataclass(frozen=True)
class StudyRecord:
    """Everything that a report says of a study, in plain values."""

    study: str
    scale: str
    plan_id: str  # name of the report's files
    title: str
    reproduces: str
    reference: str
    published: str | None
    curve: str | None
    departures: Mapping[str, Json]
    study_sha256: str
    tasks: tuple[str, ...]
    rows: tuple[RowRecord, ...]
    backbone: str = ""
    endpoint: str = "accuracy"  # the score that averages and verdicts rest on
    # name -> variant -> weight: what verdicts are given on; none: each row beside the reference
    contrasts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())  # what has to be said of the study as a whole
    # task -> item -> what it asks about, where others ask about the same; "": about its own
    clusters: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    @property
    def results(self) -> list[TrialResult]:
        """Return every result, row by row."""
        return [result for row in self.rows for result in row.results.values()]


def mixed_provenance(record: StudyRecord) -> dict[str, list[str]]:
    """Return the compared fields that disagree among the results, with the trials of each value.

    Each value is a list of lines `value: variant/seed, ...`. A field that is None, as the loss mask
    of a trial without training, disagrees with nothing; nor does one that a row declares to change.
    """
    trials: dict[str, dict[str, list[str]]] = {}
    for row in record.rows:
        for trial, result in _named_results(row):
            for name, value in _compared_values(row, result):
                by_value = trials.setdefault(name, {})
                by_value.setdefault(str(value), []).append(f"{row.variant}/{trial}")
    return {
        name: [f"{value}: {', '.join(found)}" for value, found in by_value.items()]
        for name, by_value in trials.items()
        if len(by_value) > 1
    }


def _named_results(row: RowRecord) -> Iterator[tuple[str, TrialResult]]:
    """Yield the results of a row's seeds and of its tuning trials, with their names."""
    for seed, result in row.results.items():
        yield f"seed{seed}", result
    for number, result in enumerate(row.tuning.results if row.tuning is not None else ()):
        yield f"tuning{number}", result


def _compared_values(row: RowRecord, result: TrialResult) -> Iterator[tuple[str, Json]]:
    """Yield each field of a result that must agree with the others', with its value."""
    for part, provenance in result.parts.items():
        identities = provenance.get("identities") or {}
        for source, fields in ((provenance, COMPARED), (identities, COMPARED_IDENTITIES)):
            for name, setting in fields.items():
                value = source.get(name)
                if value is not None and setting not in row.changes:
                    yield f"{name} of {part}", value
        for name, sha256 in identities.get("sources", {}).items():  # files that a setting names
            if name not in row.changes:
                yield name, sha256
        for task, splits in identities.get("data", {}).items():
            for split, sha256 in splits.items():
                if sha256 is not None:
                    yield f"data {task}/{split}", sha256


def refuse_mixed(record: StudyRecord) -> None:
    """Refuse results that cannot be compared.

    Raises:
        InputError: trials disagree in a field that matters; the message names both.
    """
    mixed = mixed_provenance(record)
    if mixed:
        details = "; ".join(f"{field} — {' | '.join(lines)}" for field, lines in mixed.items())
        raise InputError(
            f"the results of {record.plan_id} were not made alike and cannot stand in one table: "
            f"{details}. Run them again alike, or pass --allow-mixed for a table with a footnote."
        )
