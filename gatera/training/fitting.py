"""One trial from start to end, in one folder: train, then score.

Imports pandas and the LLaMA model, which pyarrow and transformers would import at first use: a
process that preloads this module then passes them on to its forks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas  # noqa: F401
from transformers.models.llama import modeling_llama  # noqa: F401

from gatera.training.attempt_files import ADAPTER_FOLDER
from gatera.training.evaluation.scorer import score_trial
from gatera.training.optimization.trainer import train_trial
from gatera.training.provenance import code
from gatera.trial import Trial, TrialResult

# Read where the code is loaded: forks of a process that preloads this module run what it loaded,
# whatever happens to the files since.
code.read_sources()


def fit_trial(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    resume_from: Sequence[Path] = (),
    attempt: int = 1,
    stop_file: Path | None = None,
) -> TrialResult:
    """Train a trial's adapter and score it; the frozen backbone is scored alone.

    The arguments and errors are those of `train_trial` and `score_trial`; a store does the same in
    two parts, and keeps weights for other trials of the same training key.
    """
    trained, adapter = None, None
    if not trial.is_frozen:
        trained = train_trial(
            trial,
            attempt_dir,
            data_root=data_root,
            resume_from=resume_from,
            attempt=attempt,
            stop_file=stop_file,
        )
        adapter = attempt_dir / ADAPTER_FOLDER
    return score_trial(
        trial,
        attempt_dir,
        data_root=data_root,
        trained=trained,
        adapter=adapter,
        answered=resume_from,
        attempt=attempt,
    )
