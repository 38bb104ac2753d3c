"""Made-up results: what studies and reports are tested on."""

from __future__ import annotations

import dataclasses

from gatera.studies.files import file_sha256
from gatera.studies.store import Store
from gatera.trial import Trial, TrialResult

CODE = "c" * 64


def make_result(
    trial: Trial, score: float, *, attempt: int = 1, seconds: float = 10.0, **provenance
) -> TrialResult:
    """Return a finished result in which every task has the same score."""
    tasks = trial.config["data"]["tasks"]
    metrics = {f"test/accuracy/{task}": score for task in tasks}
    metrics |= {f"test/no_keyword/{task}": 0.0 for task in tasks}
    gated = trial.config["adapter"] is not None and trial.config["adapter"]["gate"] != "none"
    summary = {"mean": 0.25, "share_below_0.1": 0.5, "share_above_0.9": 0.125, "entropy": 0.375}
    return TrialResult(
        key=trial.key,
        seed=trial.seed,
        attempt=attempt,
        config=trial.config,
        metrics={**metrics, "test/accuracy": score},
        gates=dict.fromkeys(("overall", "prompt", "answer"), summary) if gated else {},
        parameters={"trainable": 0 if trial.config["adapter"] is None else 1234, "all": 98_765},
        predictions_sha256="p" * 64,
        provenance={
            "code_sha256": CODE,
            "versions": {"python": "3.11.0", "torch": "2.13.0"},
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "loss_mask": trial.config["train"].get("loss_mask"),
            "identities": trial.identities,
            "commit": None,
            "dirty": None,
            **provenance,
        },
        measured={
            "train_seconds": 0.8 * seconds,
            "eval_seconds": 0.2 * seconds,
            "peak_memory_bytes": 2**28,
        },
    )


def commit_result(store: Store, trial: Trial, score: float, **options) -> TrialResult:
    """Claim a trial and commit a made-up result for it."""
    import pandas as pd  # seconds that made-up workers need not wait for

    claim = store.claim(trial.key, {"worker": "test", "host": "here", "pid": 1, "claimed_at": 0.0})
    assert claim is not None
    path = store.predictions_path(trial.key, claim.attempt)
    pd.DataFrame({"task": ["a"], "correct": [True]}).to_parquet(path)
    result = make_result(trial, score, attempt=claim.attempt, **options)
    result = dataclasses.replace(result, predictions_sha256=file_sha256(path))
    assert store.commit(result)
    claim.release()
    return result
