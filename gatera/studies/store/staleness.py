"""Whether a result is what today's code would give: by the hashes of the files it rests on."""

from __future__ import annotations

from gatera.training.provenance.code import changed_files, scoring_code, training_code
from gatera.trial import Trial, TrialResult


def stale_files(trial: Trial, result: TrialResult) -> list[str]:
    """Return the files of gatera that a result rests on and that changed since, by name."""
    trained = changed_training(trial, result)
    return [*trained, *(name for name in _changed_scoring(trial, result) if name not in trained)]


def changed_training(trial: Trial, result: TrialResult) -> list[str]:
    """Return the files that trained the weights of a result and changed since."""
    before = result.provenance["training"]
    return [] if before is None else changed_files(before["code"], training_code(trial.config))


def _changed_scoring(trial: Trial, result: TrialResult) -> list[str]:
    before = result.provenance["scoring"]
    return [] if before is None else changed_files(before["code"], scoring_code(trial.config))
