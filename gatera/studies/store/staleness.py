"""Whether a result is what today's code would give: by the hashes of the files it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from gatera.training.provenance.code import changed_files, scoring_code, training_code
from gatera.trial import Json, Trial, TrialResult

_Code = Mapping[str, str]  # file -> hash of its tree

# By the identity of a configuration, which thousands of trials share: itself, which stays alive
# so, and the code that trains and that scores by it.
_code: dict[int, tuple[Mapping[str, Json], _Code, _Code]] = {}


def stale_files(trial: Trial, result: TrialResult) -> list[str]:
    """Return the files of gatera that a result rests on and that changed since, by name."""
    trained = changed_training(trial, result)
    return [*trained, *(name for name in _changed_scoring(trial, result) if name not in trained)]


def changed_training(trial: Trial, result: TrialResult) -> list[str]:
    """Return the files that trained the weights of a result and changed since."""
    before = result.provenance["training"]
    return [] if before is None else changed_files(before["code"], _code_of(trial)[0])


def _changed_scoring(trial: Trial, result: TrialResult) -> list[str]:
    before = result.provenance["scoring"]
    return [] if before is None else changed_files(before["code"], _code_of(trial)[1])


def _code_of(trial: Trial) -> tuple[_Code, _Code]:
    """Return the code that trains and that scores a trial."""
    config = trial.config
    known = _code.get(id(config))
    if known is None or known[0] is not config:
        known = _code[id(config)] = (config, training_code(config), scoring_code(config))
    return known[1:]
