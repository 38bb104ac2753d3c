"""Statistics of paired comparisons: pure functions on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# Standard deviation among seeds that a replicator reports for LoRA on the commonsense benchmarks,
# as a fraction (github.com/hqsiswiliam/hira, issue 7).
ASSUMED_SPREAD = 0.0077


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of paired values with its Student-t interval."""

    mean: float
    low: float  # 95 %, unadjusted; NaN with one pair
    high: float
    p: float  # two-sided, of a mean of zero; NaN with one pair
    sd: float  # of the differences; NaN with one pair
    pairs: int


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], *, level: float = 0.95
) -> PairedDifference | None:
    """Compare two arms over the seeds that both have.

    Args:
        values: Score by seed.
        reference: Score of the reference by seed.
        level: Coverage of the interval.

    Returns None where they share no seed. With one seed there is no interval, and where all
    differences are equal its width is zero and p is 0 (or 1 where they are zero).
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    mean, n = float(differences.mean()), len(seeds)
    if n == 1:
        return PairedDifference(mean, math.nan, math.nan, math.nan, math.nan, 1)
    sd = float(differences.std(ddof=1))
    error = sd / math.sqrt(n)
    if error == 0:
        return PairedDifference(mean, mean, mean, float(mean == 0), sd, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return PairedDifference(mean, mean - half, mean + half, p, sd, n)


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds with its Student-t interval."""

    mean: float
    low: float  # 95 %, unadjusted; NaN with one seed
    high: float
    seeds: int


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> MeanInterval | None:
    """Return the mean of one value a seed with its Student-t interval; None without values."""
    if not values:
        return None
    by_seed = dict(enumerate(values))
    found = paired_difference(by_seed, dict.fromkeys(by_seed, 0.0), level=level)
    assert found is not None
    return MeanInterval(found.mean, found.low, found.high, found.pairs)


@dataclass(frozen=True)
class McNemar:
    """Two single runs on the same items: how often one alone is right, and the exact test."""

    first_only: int  # items that only the first run answers rightly
    second_only: int
    p: float  # two-sided, exact; 1 where the runs never disagree


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Compare two runs on the same items, in the same order, by McNemar's exact test.

    It speaks of these two trained models, not of the methods: other seeds may differ.

    Raises:
        ValueError: the runs have different numbers of items.
    """
    if len(first) != len(second):
        raise ValueError(
            f"the first run has {len(first)} items, the second {len(second)}; McNemar's test needs "
            "the same items in the same order."
        )
    pairs = list(zip(first, second, strict=True))
    first_only = sum(a and not b for a, b in pairs)
    second_only = sum(b and not a for a, b in pairs)
    disagreements = first_only + second_only
    p = stats.binomtest(first_only, disagreements).pvalue if disagreements else 1.0
    return McNemar(first_only, second_only, float(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's step-down procedure, in their order."""
    adjusted = [math.nan] * len(p_values)
    running = 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def paired_power(difference: float, sd: float, pairs: int, *, alpha: float = 0.05) -> float:
    """Return the power of the two-sided paired t-test.

    Args:
        difference: True mean difference.
        sd: Standard deviation of the differences.
        pairs: Number of pairs, at least 2.
        alpha: Level of the test.
    """
    critical = stats.t.ppf(1 - alpha / 2, pairs - 1)
    shift = abs(difference) / sd * math.sqrt(pairs)
    return float(
        stats.nct.sf(critical, pairs - 1, shift) + stats.nct.cdf(-critical, pairs - 1, shift)
    )


def detectable_difference(sd: float, pairs: int, *, power: float = 0.8) -> float | None:
    """Return the smallest difference that is found with `power`; None with fewer than 2 pairs.

    Args:
        sd: Standard deviation of the differences, in the unit of the answer.
        pairs: Number of seeds.
        power: Probability of finding it, two-sided at the 5 % level.
    """
    if pairs < 2:
        return None
    low, high = 0.0, sd
    while paired_power(high, sd, pairs) < power:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if paired_power(middle, sd, pairs) < power else (low, middle)
    return high


def seeds_to_resolve(difference: float, sd: float, *, power: float = 0.8) -> int | None:
    """Return how many seeds find a difference of this size with `power`; None above 10,000.

    Args:
        difference: Mean difference, taken as the true one.
        sd: Standard deviation of the differences.
        power: Probability of finding it, two-sided at the 5 % level.
    """
    if difference == 0 or not math.isfinite(sd):
        return None
    if sd == 0:
        return 2
    low, high = 2, 2
    while paired_power(difference, sd, high) < power:
        low, high = high, high * 2
        if high > 10_000:
            return None
    while low < high:
        middle = (low + high) // 2
        if paired_power(difference, sd, middle) < power:
            low = middle + 1
        else:
            high = middle
    return high
