"""What a report is made of: one record a study, with its rows, trials and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gatera.errors import InputError
from gatera.trial import Json, TrialResult

# Fields of a result's provenance that must agree among the trials of one table.
COMPARED = ("code_sha256", "versions", "device", "dtype", "threads", "loss_mask")


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a row."""

    seed: int
    state: str  # done, stale, running, failed or waiting
    result: TrialResult | None  # None unless done
    reason: str | None = None  # why there is no result, where it failed


@dataclass(frozen=True)
class RowRecord:
    """One row: a variant with its trials, ordered by seed."""

    variant: str
    changes: Mapping[str, Json]
    trials: tuple[TrialRecord, ...]

    @property
    def results(self) -> dict[int, TrialResult]:
        """Return the results by seed."""
        return {trial.seed: trial.result for trial in self.trials if trial.result is not None}


@dataclass(frozen=True)
class StudyRecord:
    """Everything that a report says of a study, in plain values."""

    study: str
    scale: str
    stem: str  # name of the report's files
    title: str
    reproduces: str
    reference: str
    published: str | None
    curve: str | None
    departures: Mapping[str, Json]
    study_sha256: str
    tasks: tuple[str, ...]
    rows: tuple[RowRecord, ...]

    @property
    def results(self) -> list[TrialResult]:
        """Return every result, row by row."""
        return [result for row in self.rows for result in row.results.values()]


def mixed_provenance(record: StudyRecord) -> dict[str, list[str]]:
    """Return the compared fields that disagree among the results, with the trials of each value.

    Each value is a list of lines `value: variant/seed, ...`. A field that is None, as the loss mask
    of a trial without training, disagrees with nothing.
    """
    mixed = {}
    for field in COMPARED:
        trials: dict[str, list[str]] = {}
        for row in record.rows:
            for seed, result in row.results.items():
                if (value := result.provenance.get(field)) is not None:
                    trials.setdefault(str(value), []).append(f"{row.variant}/seed{seed}")
        if len(trials) > 1:
            mixed[field] = [f"{value}: {', '.join(names)}" for value, names in trials.items()]
    return mixed


def refuse_mixed(record: StudyRecord) -> None:
    """Refuse results that cannot be compared.

    Raises:
        InputError: trials disagree in a field that matters; the message names both.
    """
    mixed = mixed_provenance(record)
    if mixed:
        details = "; ".join(f"{field} — {' | '.join(lines)}" for field, lines in mixed.items())
        raise InputError(
            f"the results of {record.stem} were not made alike and cannot stand in one table: "
            f"{details}. Run them again alike, or pass --allow-mixed for a table with a footnote."
        )
