"""One trial from start to end, on Lightning; light to import.

`train` makes a trial's weights (`optimization`), `score` measures what they are worth
(`evaluation`), `fit` does both: functions of the modules that hold them, looked up when they are
touched. `provenance` is what a result rests on, `data` the batches, `adapting` the adapted model.
Who runs a trial, and where, is `gatera.studies`'. `provenance`, `attempt_files`, `metrics_log` and
this module load no torch; everything else here does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatera.training.evaluation.scorer import score_trial as score
    from gatera.training.fitting import fit_trial as fit
    from gatera.training.optimization.trainer import train_trial as train

__all__ = ["fit", "score", "train"]

_FUNCTIONS = {
    "fit": ("gatera.training.fitting", "fit_trial"),
    "score": ("gatera.training.evaluation.scorer", "score_trial"),
    "train": ("gatera.training.optimization.trainer", "train_trial"),
}


def __getattr__(name: str) -> object:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'gatera.training' has no attribute {name!r}")
    module, function = _FUNCTIONS[name]
    return getattr(importlib.import_module(module), function)
