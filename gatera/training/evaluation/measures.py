"""The numbers that the test items give, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gatera.training.evaluation import scoring
from gatera.training.evaluation.scoring import Prediction


def of_test(
    scored: Sequence[str], predictions: Sequence[Prediction], gates: Mapping[str, Any]
) -> dict[str, float]:
    """Return accuracy and outputs without a keyword by task, and what the gates did."""
    metrics = {}
    for task in scored:
        of_task = [each for each in predictions if each.task == task]
        metrics[f"test/accuracy/{task}"] = scoring.accuracy(of_task)
        metrics[f"test/no_keyword/{task}"] = scoring.share_without_keyword(of_task)
    accuracies = [metrics[f"test/accuracy/{task}"] for task in scored]
    metrics["test/accuracy"] = sum(accuracies) / len(accuracies)
    if gates:
        metrics["gate/mean"] = gates["overall"]["mean"]
        if "share_skipped" in gates["overall"]:
            metrics["gate/share_skipped"] = gates["overall"]["share_skipped"]
    return metrics
