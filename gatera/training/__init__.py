"""One trial from start to end, on Lightning; light to import.

`provenance` and the names here load no torch; everything else in this package does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gatera.trial import Trial, TrialResult

__all__ = ["fit"]


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
