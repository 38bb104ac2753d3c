"""Made-up results: what studies and reports are tested on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gatera.studies.store.attempts import AttemptRecord, write_record
from gatera.studies.store.store import Store
from gatera.studies.store.whole_files import file_sha256
from gatera.training.attempt_files import ADAPTER_FOLDER
from gatera.training.provenance.code import scoring_code, training_code
from gatera.training.provenance.machine import Machine
from gatera.trial import Trained, Trial, TrialResult

ITEMS = 1000  # test items of each task


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
    training: Mapping[str, Any] = MappingProxyType({}),
    scoring: Mapping[str, Any] = MappingProxyType({}),
    **provenance,
) -> TrialResult:
    """Return a finished result in which every task has the same score.

    `metrics` and `gates` (overall statistics) replace single values, `training` and `scoring` parts
    of the provenance, and the rest is in both.
    """
    tasks = trial.config["data"]["tasks"]
    made = {f"test/accuracy/{task}": score for task in tasks}
    made |= {f"test/no_keyword/{task}": 0.0 for task in tasks}
    made |= {"test/accuracy": score} if tasks else {}
    gated = trial.config["adapter"].get("gate", "none") != "none"
    summary = {"mean": 0.25, "share_below_0.1": 0.5, "share_above_0.9": 0.125, "entropy": 0.375}
    summary |= gates
    return TrialResult(
        key=trial.key,
        training_key=trial.training_key,
        seed=trial.seed,
        attempt=attempt,
        config=trial.config,
        metrics={**made, **metrics},
        gates=dict.fromkeys(("overall", "prompt", "answer"), summary) if gated else {},
        parameters={"trainable": 0 if trial.is_frozen else 1234, "all": 98_765},
        predictions_sha256=predictions_sha256,
        provenance={
            "training": None if trial.is_frozen else make_training(trial, **provenance, **training),
            "scoring": None if trial.is_tuning else make_scoring(trial, **provenance, **scoring),
        },
        measured={
            "train_seconds": 0.8 * seconds,
            "eval_seconds": 0.2 * seconds,
            "peak_memory_bytes": 2**28,
        },
    )


def make_training(trial: Trial, **provenance: Any) -> dict[str, Any]:
    """Return the provenance of weights that were trained here and now."""
    train = trial.config["train"]
    return {
        "code": training_code(trial.config),
        "loss_mask": train["loss_mask"],
        "identities": _identities(trial, "train"),
        "dropped_items": 0,
        "truncated_items": 0,
        "steps": 4,
        "accumulation": train["accumulation"],
        **_by(trial),
        **provenance,
    }


def make_scoring(trial: Trial, **provenance: Any) -> dict[str, Any]:
    """Return the provenance of scores that were made here and now."""
    return {
        "code": scoring_code(trial.config),
        "identities": _identities(trial, "test"),
        "truncated_items": 0,
        "batch_size": trial.config.get("eval", {}).get("batch_size"),
        **_by(trial),
        **provenance,
    }


def _by(trial: Trial) -> dict[str, Any]:
    here = dataclasses.asdict(Machine.here())
    nothing = {"commit": None, "dirty": None, "threads": 1}
    return {**here, **nothing, "dtype": trial.config["train"]["dtype"]}


def _identities(trial: Trial, split: str) -> dict[str, Any]:
    data = trial.identities["data"]
    return {
        **trial.identities,
        "data": {task: {split: found[split]} for task, found in data.items() if split in found},
    }


def make_trained(trial: Trial, attempt: int, folder: Path) -> Trained:
    """Write made-up weights into an attempt's folder and return what is known of them."""
    (folder / ADAPTER_FOLDER).mkdir(parents=True, exist_ok=True)
    weights = folder / ADAPTER_FOLDER / "adapter_model.safetensors"
    weights.write_text(trial.training_key)
    (folder / ADAPTER_FOLDER / "adapter_config.json").write_text('{"gate_threshold": 0.0}')
    return Trained(
        training_key=trial.training_key,
        key=trial.key,
        attempt=attempt,
        adapter_sha256={} if trial.is_tuning else {weights.name: file_sha256(weights)},
        metrics={},
        parameters={"trainable": 1234, "all": 98_765},
        provenance=make_training(trial),
        measured={"train_seconds": 1.0, "validation_seconds": 0.5},
    )


def note_end(
    store: Store,
    key: str,
    attempt: int,
    ended: str,
    message: str = "",
    log_tail: str = "",
    **fields,
) -> AttemptRecord:
    """Record how an attempt ended, and return the record."""
    record = AttemptRecord(attempt, ended, message=message, log_tail=log_tail, **fields)
    folder = store.attempt_folder(key, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, record)
    return record


def log_probability(right: bool, seed: int) -> float:
    """Return what the right option of an item weighs, by what its answer is worth."""
    return (-0.1 if right else -2.5) * (1 + seed / 100)


def commit_result(
    store: Store,
    trial: Trial,
    score: float,
    *,
    answers: Mapping[str, Sequence[bool]] | None = None,
    clustered: bool = False,
    **options,
) -> TrialResult:
    """Claim a trial and commit a made-up result for it, with predictions.

    The scores are those of `answers` (by task, whether each item is right), two items a cluster
    where they are `clustered`.
    """
    import pandas as pd  # seconds that made-up workers need not wait for

    tasks = trial.config["data"]["tasks"]
    answers = answers or {task: answers_worth(score) for task in tasks}
    shares = {task: sum(answers[task]) / len(answers[task]) for task in tasks}
    if tasks:
        score = sum(shares.values()) / len(shares)
    metrics = {f"test/accuracy/{task}": share for task, share in shares.items()}
    metrics |= {
        f"test/log_probability/{task}": sum(log_probability(r, trial.seed) for r in a) / len(a)
        for task in tasks
        for a in [answers[task]]
    }
    options["metrics"] = metrics | dict(options.get("metrics", {}))
    rows = [
        {
            "task": task,
            "index": index,
            "cluster": f"{task} {index // 2}" if clustered else "",
            "output": f"it is {'left' if right else 'up'}",
            "extracted": "left" if right else None,
            "answer": "left",
            "correct": bool(right),
            "score": float(right),
            "log_probability": log_probability(right, trial.seed),
        }
        for task in tasks
        for index, right in enumerate(answers[task])
    ]
    claim = store.claim(trial.key, {"worker": "test", "host": "here", "pid": 1, "claimed_at": 0.0})
    assert claim is not None
    folder = store.attempt_folder(trial.key, claim.attempt)
    here = dataclasses.asdict(Machine.here())
    store.note_attempt(
        trial.key, claim.attempt, here | {n: v for n, v in options.items() if n in here}
    )
    if not (trial.is_frozen or trial.is_tuning):
        store.weights.keep(make_trained(trial, claim.attempt, folder), trial)
    path = store.predictions_path(trial.key, claim.attempt)
    pd.DataFrame(rows).to_parquet(path)
    options.setdefault("predictions_sha256", file_sha256(path))
    result = make_result(trial, score, attempt=claim.attempt, **options)
    phases = ("train_seconds", "eval_seconds")
    store.end_attempt(
        trial, claim.attempt, "finished", seconds=sum(result.measured[each] for each in phases)
    )
    assert store.commit(result)
    claim.release()
    return result
