"""The bootstrap interval of a difference over seeds and test items together.

Randomness arrives as a generator; the same generator state gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
MIN_SEEDS = 5  # with fewer, resampled seeds coincide too often for a studentized interval
_CHUNK_CELLS = 2_000_000  # resamples × items held in memory at once


@dataclass(frozen=True)
class CrossedInterval:
    """A mean difference with its interval over seeds and test items."""

    mean: float
    low: float  # infinite where too many resamples have no spread
    high: float
    seeds: int
    items: int  # or clusters of them, over all tasks


@dataclass(frozen=True)
class _Moments:
    """The estimate and its squared standard error, one of each for every resample."""

    mean: Array  # (resamples,)
    variance: Array  # (resamples,)


def crossed_bootstrap(
    differences: Mapping[str, Array],
    generator: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> CrossedInterval | None:
    """Return the studentized bootstrap interval of the plain mean over tasks.

    Seeds and items are both drawn with replacement, items within their task. One draw of items
    serves every seed, and, since the values are differences, both variants.

    The squared standard error adds the seeds' and the items' part and takes away the interaction,
    which both contain: S²_seeds/n + Σ_t (S²_items,t/m_t - MS_residual,t/(n m_t))/T², with T tasks,
    n seeds and m_t items of task t.

    Args:
        differences: By task, score of the variant minus that of the reference on the same item by
            the same seed, (seeds, items of the task); rows of all tasks are the same seeds.
        generator: Source of the draws.
        resamples: Number of draws.
        level: Coverage of the interval.

    Returns None with fewer than two seeds, or where a task has fewer than two items.

    Source: the crossed resampling is Owen's pigeonhole bootstrap (doi:10.1214/07-AOAS122).
    """
    tables = list(differences.values())
    if not tables or len(tables[0]) < 2 or min(table.shape[1] for table in tables) < 2:
        return None
    seeds, items = len(tables[0]), sum(table.shape[1] for table in tables)
    observed = _moments(tables, np.ones((1, seeds)), [np.ones((1, t.shape[1])) for t in tables])
    mean, error = float(observed.mean[0]), math.sqrt(observed.variance[0])
    if error == 0:
        return CrossedInterval(mean, mean, mean, seeds, items)
    shares = np.concatenate(
        [
            _studentized(tables, mean, size, generator)
            for size in _chunks(resamples, max(table.shape[1] for table in tables))
        ]
    )
    # No interpolation: a draw without any spread is infinitely many errors away.
    upper, lower = np.quantile(shares, [(1 + level) / 2, (1 - level) / 2], method="inverted_cdf")
    return CrossedInterval(mean, mean - upper * error, mean - lower * error, seeds, items)


def clustered(table: Array, labels: Sequence[str]) -> Array:
    """Return one value a cluster whose plain mean is the mean over items, (seeds, clusters).

    Items that ask about the same thing are right or wrong together, so it is these things that are
    drawn. Clusters differ in size, and the mean over items is a ratio, Σ_c S_c / Σ_c m_c; its
    linearization at the observed data is the mean of z_c = μ + (S_c - μ m_c) C / Σ_c m_c, with C
    clusters, S_c the sum and m_c the number of cluster c's items, and μ the seed's mean.

    Args:
        table: A value of each item by each seed, (seeds, items).
        labels: The cluster of each item.

    Source: linearization of a ratio, as for cluster samples in survey statistics (W. G. Cochran,
    Sampling Techniques, 1977, chapter 9A).
    """
    names, places = np.unique(labels, return_inverse=True)
    if len(names) == table.shape[1]:
        return table
    member = np.zeros((table.shape[1], len(names)))
    member[np.arange(table.shape[1]), places] = 1.0
    mean = table.mean(1, keepdims=True)
    values: Array = mean + (table @ member - mean * member.sum(0)) * len(names) / table.shape[1]
    return values


def _chunks(resamples: int, items: int) -> Iterator[int]:
    size = max(1, _CHUNK_CELLS // items)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _studentized(
    tables: Sequence[Array], mean: float, resamples: int, generator: np.random.Generator
) -> Array:
    """Return (estimate - mean) / standard error of each resample, (resamples,)."""
    seed_counts = _draw_counts(len(tables[0]), resamples, generator)
    item_counts = [_draw_counts(table.shape[1], resamples, generator) for table in tables]
    drawn = _moments(tables, seed_counts, item_counts)
    off = drawn.mean - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = off / np.sqrt(drawn.variance)
    return np.where(off == 0, 0.0, shares)


def _draw_counts(size: int, resamples: int, generator: np.random.Generator) -> Array:
    """Return how often each of `size` things is drawn, (resamples, size); rows sum to `size`."""
    drawn = generator.integers(size, size=(resamples, size))
    drawn += size * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * size)
    return counts.reshape(resamples, size).astype(float)


def _moments(tables: Sequence[Array], seed_counts: Array, item_counts: Sequence[Array]) -> _Moments:
    """Return estimate and squared standard error of every resample.

    Args:
        tables: By task, (seeds, items).
        seed_counts: How often each seed was drawn, (resamples, seeds).
        item_counts: By task, how often each item was drawn, (resamples, items).
    """
    n = len(tables[0])
    by_seed = np.zeros_like(seed_counts)  # mean over tasks of each seed, (resamples, seeds)
    item_part = np.zeros(len(seed_counts))
    interaction = np.zeros(len(seed_counts))
    for table, counts in zip(tables, item_counts, strict=True):
        m = table.shape[1]
        seed_means = counts @ table.T / m  # (resamples, seeds)
        item_means = seed_counts @ table / n  # (resamples, items)
        whole = (seed_means * seed_counts).sum(1) / n
        squares = ((seed_counts @ table**2) * counts).sum(1)
        seed_squares = (seed_counts * seed_means**2).sum(1)
        item_squares = (counts * item_means**2).sum(1)
        residual = squares - m * seed_squares - n * item_squares + n * m * whole**2
        by_seed += seed_means / len(tables)
        item_part += (item_squares - m * whole**2) / (m - 1) / m / len(tables) ** 2
        interaction += residual / ((n - 1) * (m - 1)) / (n * m) / len(tables) ** 2
    mean = (seed_counts * by_seed).sum(1) / n
    seed_part = ((seed_counts * by_seed**2).sum(1) - n * mean**2) / (n - 1) / n
    # Rounding leaves a trace where there is no spread, and a sum of parts is never below either.
    parts = np.stack([seed_part, item_part, seed_part + item_part - interaction])
    variance = parts.max(0)
    return _Moments(mean, np.where(variance < 1e-18, 0.0, variance))
