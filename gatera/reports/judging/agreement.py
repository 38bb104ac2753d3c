"""A study's rows beside the published ones: steps, intervals, order.

A verdict is given at `paper` scale alone, on the paper's model, by its protocol: elsewhere the
published number is no target, and what stands beside it is arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatera.reports.judging.paired import PairedDifference, RankAgreement, rank_agreement
from gatera.reports.published import BACKBONES, PublishedTable
from gatera.reports.records import StudyRecord


@dataclass(frozen=True)
class PaperRow:
    """One row beside its published number; fractions, None where a number is not known."""

    variant: str
    published: float | None
    measured: float | None
    difference: float | None  # measured minus published
    step: float | None  # published difference to the reference
    measured_step: float | None  # ours
    step_inside: bool | None  # whether the published step lies in our interval
    verdict: str | None  # agrees or disagrees; None unless comparable
    published_trainable: float | None  # share of all parameters


@dataclass(frozen=True)
class PaperComparison:
    """All rows beside the published ones."""

    rows: tuple[PaperRow, ...]
    order: RankAgreement | None  # None with fewer than two rows that both have
    incomparable: str | None  # why no verdict is given; None where verdicts are


def compare_with_paper(
    published: PublishedTable,
    record: StudyRecord,
    *,
    averages: Mapping[str, Mapping[int, float]],
    differences: Mapping[str, PairedDifference],
) -> PaperComparison:
    """Set a study's averages beside the published ones.

    Args:
        published: The paper's numbers.
        record: The study.
        averages: By variant, in the order of the rows, the average by seed.
        differences: By variant, the paired difference to the reference.
    """
    incomparable = _incomparable(published, record)
    rows = tuple(
        _row(
            variant,
            by_seed,
            differences.get(variant),
            published,
            record.reference,
            has_verdict=incomparable is None,
        )
        for variant, by_seed in averages.items()
    )
    return PaperComparison(rows, _order(published, averages), incomparable)


def _incomparable(published: PublishedTable, record: StudyRecord) -> str | None:
    """Return why the published numbers are no target for a study; None where they are."""
    if record.scale != "paper" or BACKBONES.get(record.backbone) != published.model:
        return f"these rows were not trained at scale paper on {published.model}"
    changed = [name for name in record.departures.get("set", {}) if name != "backbone.name"]
    if changed:
        return f"this run changes the paper's protocol ({', '.join(changed)})"
    if set(record.tasks) != set(published.tasks):
        return f"the published averages are over other tasks: {', '.join(published.tasks)}"
    return None


def _row(
    variant: str,
    by_seed: Mapping[int, float],
    ours: PairedDifference | None,
    published: PublishedTable,
    reference: str,
    *,
    has_verdict: bool,
) -> PaperRow:
    known = _fraction(published.averages.get(variant))
    base = _fraction(published.averages.get(reference))
    measured = sum(by_seed.values()) / len(by_seed) if by_seed else None
    step = known - base if known is not None and base is not None else None
    if variant == reference:
        step = None
    inside = None
    if step is not None and ours is not None and math.isfinite(ours.low):
        inside = ours.low <= step <= ours.high
    return PaperRow(
        variant=variant,
        published=known,
        measured=measured,
        difference=measured - known if measured is not None and known is not None else None,
        step=step,
        measured_step=ours.mean if ours is not None else None,
        step_inside=inside,
        verdict=_verdict(inside) if has_verdict else None,
        published_trainable=_fraction(published.trainable.get(variant)),
    )


def _verdict(inside: bool | None) -> str | None:
    return None if inside is None else ("agrees" if inside else "disagrees")


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _order(
    published: PublishedTable, averages: Mapping[str, Mapping[int, float]]
) -> RankAgreement | None:
    """Compare the order of the rows over the seeds that all of them have."""
    rows = [name for name, by_seed in averages.items() if name in published.averages and by_seed]
    shared = _shared_seeds([averages[name] for name in rows])
    if len(rows) < 2 or not shared:
        return None
    scores = [[averages[name][seed] for seed in shared] for name in rows]
    return rank_agreement(scores, [published.averages[name] for name in rows])


def _shared_seeds(rows: Sequence[Mapping[int, float]]) -> list[int]:
    seeds = [set(by_seed) for by_seed in rows]
    return sorted(set.intersection(*seeds)) if seeds else []
