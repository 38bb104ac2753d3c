"""One trial from start to end, on Lightning; light to import.

`train` makes a trial's weights, `score` measures what they are worth, `fit` does both. `code`,
`files`, `gpus`, `progress`, `provenance` and the names here load no torch; everything else in this
package does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatera.trial import Trained, Trial, TrialResult

__all__ = ["fit", "score", "train"]


def train(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    resume_from: Sequence[Path] = (),
    attempt: int = 1,
    stop_file: Path | None = None,
) -> Trained:
    """Train a trial's adapter; see `gatera.training.trainer.train_trial`."""
    from gatera.training.trainer import train_trial

    return train_trial(
        trial,
        attempt_dir,
        data_root=data_root,
        resume_from=resume_from,
        attempt=attempt,
        stop_file=stop_file,
    )


def score(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    trained: Trained | None,
    adapter: Path | None,
    answered: Sequence[Path] = (),
    attempt: int = 1,
) -> TrialResult:
    """Score a trial; see `gatera.training.scorer.score_trial`."""
    from gatera.training.scorer import score_trial

    return score_trial(
        trial,
        attempt_dir,
        data_root=data_root,
        trained=trained,
        adapter=adapter,
        answered=answered,
        attempt=attempt,
    )


def fit(
    trial: Trial,
    attempt_dir: Path,
    *,
    data_root: Path | None,
    resume_from: Sequence[Path] = (),
    attempt: int = 1,
    stop_file: Path | None = None,
) -> TrialResult:
    """Train and score one trial; see `gatera.training.fitting.fit_trial`."""
    from gatera.training.fitting import fit_trial

    return fit_trial(
        trial,
        attempt_dir,
        data_root=data_root,
        resume_from=resume_from,
        attempt=attempt,
        stop_file=stop_file,
    )
