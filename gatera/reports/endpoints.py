"""The scores that verdicts may rest on, each with the words that a report has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """A score of items, measured as "test/<name>/<task>"; reports print it times 100."""

    heading: str  # begins a sentence
    axis: str  # of a figure
    unit: str  # of a difference
    is_published: bool = False  # whether published numbers are of this kind


LOG_PROBABILITY = "log_probability"  # of an item's right option against the others

ENDPOINTS: Mapping[str, Endpoint] = {
    "accuracy": Endpoint("Accuracy in %", "accuracy, %", "percentage points", is_published=True),
    LOG_PROBABILITY: Endpoint(
        "Log-probability of the right option against the others, in hundredths of a nat (0 is "
        "certainty)",
        "log-probability, 0.01 nat",
        "hundredths of a nat",
    ),
    "rouge_l": Endpoint("ROUGE-L in %", "ROUGE-L, %", "percentage points", is_published=True),
}
