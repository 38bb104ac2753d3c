"""Made-up results: what studies and reports are tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gatera.studies.files import file_sha256
from gatera.studies.store import Store
from gatera.trial import Trial, TrialResult

CODE = "c" * 64


ITEMS = 8  # test items of each task


def answers_worth(score: float) -> list[bool]:
    """Return answers to a task's items of which as near to `score` as can be are right."""
    return [place < round(score * ITEMS) for place in range(ITEMS)]


def make_result(
    trial: Trial,
    score: float,
    *,
    attempt: int = 1,
    seconds: float = 10.0,
    predictions_sha256: str = "p" * 64,
    metrics: Mapping[str, float] = MappingProxyType({}),
    gates: Mapping[str, float] = MappingProxyType({}),
    **provenance,
) -> TrialResult:
    """Return a finished result in which every task has the same score.

    `metrics` and `gates` (overall statistics) replace single values, the rest is provenance.
    """
    tasks = trial.config["data"]["tasks"]
    made = {f"test/accuracy/{task}": score for task in tasks}
    made |= {f"test/no_keyword/{task}": 0.0 for task in tasks}
    made |= {"test/accuracy": score} if tasks else {}
    gated = trial.config["adapter"] is not None and trial.config["adapter"]["gate"] != "none"
    summary = {"mean": 0.25, "share_below_0.1": 0.5, "share_above_0.9": 0.125, "entropy": 0.375}
    summary |= gates
    return TrialResult(
        key=trial.key,
        seed=trial.seed,
        attempt=attempt,
        config=trial.config,
        metrics={**made, **metrics},
        gates=dict.fromkeys(("overall", "prompt", "answer"), summary) if gated else {},
        parameters={"trainable": 0 if trial.config["adapter"] is None else 1234, "all": 98_765},
        predictions_sha256=predictions_sha256,
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


def commit_result(
    store: Store,
    trial: Trial,
    score: float,
    *,
    answers: Mapping[str, Sequence[bool]] | None = None,
    **options,
) -> TrialResult:
    """Claim a trial and commit a made-up result for it, with predictions.

    Where `answers` are given (by task, whether each item is right), the scores are theirs.
    """
    import pandas as pd  # seconds that made-up workers need not wait for

    tasks = trial.config["data"]["tasks"]
    if answers is not None:
        shares = {task: sum(answers[task]) / len(answers[task]) for task in tasks}
        score = sum(shares.values()) / len(shares)
        options["metrics"] = {f"test/accuracy/{task}": s for task, s in shares.items()}
    rows = [
        {"task": task, "index": index, "correct": bool(right)}
        for task in tasks
        for index, right in enumerate(answers[task] if answers else answers_worth(score))
    ]
    claim = store.claim(trial.key, {"worker": "test", "host": "here", "pid": 1, "claimed_at": 0.0})
    assert claim is not None
    path = store.predictions_path(trial.key, claim.attempt)
    pd.DataFrame(rows).to_parquet(path)
    options.setdefault("predictions_sha256", file_sha256(path))
    result = make_result(trial, score, attempt=claim.attempt, **options)
    assert store.commit(result)
    claim.release()
    return result
