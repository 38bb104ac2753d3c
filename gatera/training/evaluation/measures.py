"""The numbers that the test items give, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatera.tasks import find
from gatera.training.evaluation import scoring
from gatera.training.evaluation.scoring import Prediction


@dataclass(frozen=True)
class Measured:
    """What the answers to one task are worth together."""

    metrics: dict[str, float]  # "test/<metric>/<task>"
    # "test/<metric>/<task>" -> how it was computed, or why it could not be
    notes: dict[str, str] = field(default_factory=dict)


def of_corpora(scored: Sequence[str], predictions: Sequence[Prediction]) -> Measured:
    """Return what the outputs of each task are worth together, where it has such metrics."""
    found = Measured({})
    for task in scored:
        if (of_texts := find(task).corpus_metrics) is None:
            continue
        outputs = [each.output for each in predictions if each.task == task]
        rights = [each.answer for each in predictions if each.task == task]
        for name, score in of_texts(outputs, rights).items():
            if score.value is not None:
                found.metrics[f"test/{name}/{task}"] = score.value
            if score.note:
                found.notes[f"test/{name}/{task}"] = score.note
    return found


def of_test(
    scored: Sequence[str], predictions: Sequence[Prediction], gates: Mapping[str, Any]
) -> dict[str, float]:
    """Return each task's scores and its outputs without an answer, and what the gates did."""
    metrics: dict[str, float] = {}
    for task in scored:
        metrics |= _of_task(task, [each for each in predictions if each.task == task])
    for name in dict.fromkeys([*(find(task).metric.name for task in scored), "log_probability"]):
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
