"""Statistics of paired comparisons: pure functions on plain numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# Below this share of their size, differences that scatter do so by rounding alone.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of paired values with its Student-t interval."""

    mean: float
    low: float  # 95 %, unadjusted; NaN with one pair, or without any spread
    high: float
    p: float  # two-sided, of a mean of zero; NaN where there is no interval
    sd: float  # of the differences; NaN with one pair, 0 where they are equal
    pairs: int


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float], *, level: float = 0.95
) -> PairedDifference | None:
    """Compare two arms over the seeds that both have.

    Args:
        values: Score by seed.
        reference: Score of the reference by seed.
        level: Coverage of the interval.

    Returns None where they share no seed. There is no interval with one seed, nor where all
    differences are equal: a few seeds that agree by chance are no proof.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = np.array([values[seed] - reference[seed] for seed in seeds])
    mean, n = float(differences.mean()), len(seeds)
    if n == 1:
        return PairedDifference(mean, math.nan, math.nan, math.nan, math.nan, 1)
    sd = float(differences.std(ddof=1))
    if sd <= _ROUNDING * max(1.0, abs(mean)):
        return PairedDifference(mean, math.nan, math.nan, math.nan, 0.0, n)
    found = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(level)
    return PairedDifference(mean, float(low), float(high), float(found.pvalue), sd, n)


@dataclass(frozen=True)
class MeanInterval:
    """A mean over seeds with its Student-t interval."""

    mean: float
    low: float  # 95 %, unadjusted; NaN with one seed, or without any spread
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
    # The square of a noncentral t is a noncentral F, which scipy computes where its t gives NaN.
    critical = stats.t.ppf(1 - alpha / 2, pairs - 1)
    shift = difference / sd * math.sqrt(pairs)
    power = float(stats.ncf.sf(critical**2, 1, pairs - 1, shift**2))
    assert math.isfinite(power), (difference, sd, pairs)
    return power


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


def seeds_to_resolve(
    difference: float, sd: float, *, power: float = 0.8, alpha: float = 0.05
) -> int | None:
    """Return how many seeds find a difference of this size with `power`; None above 10,000.

    Args:
        difference: Mean difference, taken as the true one.
        sd: Standard deviation of the differences.
        power: Probability of finding it, two-sided.
        alpha: Level of the test.
    """
    if difference == 0 or not sd > 0:
        return None

    def finds(pairs: int) -> bool:
        return paired_power(difference, sd, pairs, alpha=alpha) >= power

    low, high = 2, 2
    while not finds(high):
        low, high = high, high * 2
        if high > 10_000:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle + 1, high)
    return high


@dataclass(frozen=True)
class RankAgreement:
    """Kendall's tau of two orders of the same rows, with its interval over seeds."""

    tau: float  # 1: the same order, -1: the reverse
    low: float  # 95 % or more; NaN with one seed
    high: float
    rows: int
    seeds: int


def rank_agreement(
    scores: Sequence[Sequence[float]], published: Sequence[float], *, level: float = 0.95
) -> RankAgreement | None:
    """Compare the order of rows, by mean over seeds, with a published order.

    Tau counts pairs of rows: (agreeing - disagreeing) / all; a tie counts for neither. Its interval
    holds every order that the seeds leave open: the order of two rows counts as known where the
    Student-t interval of their paired difference, corrected by Bonferroni over all pairs, excludes
    zero. With the normality of the t interval it covers `level` or more; a bootstrap of so few
    seeds covers far less.

    Args:
        scores: By row, one score a seed; the same seeds in all rows.
        published: One number a row, taken as exact.
        level: Coverage of the interval.

    Returns None with fewer than two rows, or without a seed.
    """
    rows, seeds = len(scores), len(scores[0]) if len(scores) else 0
    if rows < 2 or seeds < 1:
        return None
    pairs = list(itertools.combinations(range(rows), 2))
    agreeing, known, left_open = 0.0, 0.0, 0.0
    for one, other in pairs:
        said = _sign(published[one] - published[other])
        found = paired_difference(
            dict(enumerate(scores[one])),
            dict(enumerate(scores[other])),
            level=1 - (1 - level) / len(pairs),
        )
        assert found is not None
        agreeing += said * _sign(found.mean)
        if found.low > 0 or found.high < 0:
            known += said * _sign(found.mean)
        else:
            left_open += abs(said)
    tau, low, high = (
        each / len(pairs) for each in (agreeing, known - left_open, known + left_open)
    )
    if seeds == 1:
        low = high = math.nan
    return RankAgreement(tau, low, high, rows, seeds)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
