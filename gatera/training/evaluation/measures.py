"""The numbers that the test items give, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gatera.tasks import find
from gatera.training.evaluation import scoring
from gatera.training.evaluation.scoring import Prediction


def of_test(
    scored: Sequence[str], predictions: Sequence[Prediction], gates: Mapping[str, Any]
) -> dict[str, float]:
    """Return each task's scores and its outputs without an answer, and what the gates did."""
    metrics: dict[str, float] = {}
    for task in scored:
        metrics |= _of_task(task, [each for each in predictions if each.task == task])
    for name in ("accuracy", "log_probability"):
        found = [metrics.get(f"test/{name}/{task}") for task in scored]
        if known := [each for each in found if each is not None]:
            metrics[f"test/{name}"] = sum(known) / len(known)
    if gates:
        metrics["gate/mean"] = gates["overall"]["mean"]
        if "share_skipped" in gates["overall"]:
            metrics["gate/share_skipped"] = gates["overall"]["share_skipped"]
    return metrics


def _of_task(name: str, predictions: Sequence[Prediction]) -> dict[str, float]:
    metrics = {
        f"test/{find(name).metric.name}/{name}": scoring.mean_score(predictions),
        f"test/no_keyword/{name}": scoring.share_without_keyword(predictions),
    }
    weighed = [each.log_probability for each in predictions if each.log_probability is not None]
    if len(weighed) == len(predictions):
        metrics[f"test/log_probability/{name}"] = sum(weighed) / len(weighed)
    return metrics
