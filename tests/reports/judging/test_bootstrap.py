import math

import numpy as np
import pytest
from scipy import stats

from gatera.reports.judging.bootstrap import crossed_bootstrap


def two_way(generator, n, *, seed_sd, item_sd, noise_sd, tasks=(11, 17, 23), effect=0.3):
    """Return differences with effects of seeds, of seeds within a task, of items, and noise."""
    common = generator.normal(0, seed_sd, (n, 1))
    return {
        f"task{m}": effect
        + common
        + generator.normal(0, seed_sd / 2, (n, 1))
        + generator.normal(0, item_sd, (1, m))
        + generator.normal(0, noise_sd, (n, m))
        for m in tasks
    }


@pytest.mark.parametrize(
    ("seed_sd", "item_sd", "noise_sd"), [(0.1, 1.0, 0.5), (0.2, 0.3, 0.3), (0.1, 0.5, 1.0)]
)
def test_the_crossed_interval_covers_within_two_points_at_ten_seeds(seed_sd, item_sd, noise_sd):
    generator = np.random.default_rng(7)
    covered, runs = 0, 1200
    for _ in range(runs):
        table = two_way(generator, 10, seed_sd=seed_sd, item_sd=item_sd, noise_sd=noise_sd)
        found = crossed_bootstrap(table, generator, resamples=600)
        covered += found.low <= 0.3 <= found.high
    assert covered / runs == pytest.approx(0.95, abs=0.02)


def test_an_interval_over_seeds_alone_misses_the_items():
    # What the crossed interval is for: the t interval knows nothing of other test items.
    generator = np.random.default_rng(3)
    covered, runs = 0, 400
    for _ in range(runs):
        table = two_way(generator, 10, seed_sd=0.02, item_sd=1.0, noise_sd=0.3)
        by_seed = np.mean([values.mean(1) for values in table.values()], axis=0)
        half = stats.t.ppf(0.975, 9) * by_seed.std(ddof=1) / math.sqrt(10)
        covered += abs(by_seed.mean() - 0.3) <= half
    assert covered / runs < 0.5


def naive_bootstrap(tables, seeds, items):
    """Return estimate and squared standard error of one resample, from the definitions."""
    drawn = [table[np.ix_(seeds, chosen)] for table, chosen in zip(tables, items, strict=True)]
    n, tasks = len(seeds), len(drawn)
    by_seed = np.mean([table.mean(1) for table in drawn], axis=0)
    of_seeds, of_items, interaction = by_seed.var(ddof=1) / n, 0.0, 0.0
    for table in drawn:
        m = table.shape[1]
        residual = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        of_items += table.mean(0).var(ddof=1) / m / tasks**2
        interaction += (residual**2).sum() / ((n - 1) * (m - 1)) / (n * m) / tasks**2
    # Both parts hold the interaction; a sum of two is never below either.
    return by_seed.mean(), max(of_seeds, of_items, of_seeds + of_items - interaction)


@pytest.mark.parametrize(
    ("seed_sd", "item_sd", "noise_sd"), [(2.0, 3.0, 0.1), (0.3, 0.8, 3.0)], ids=["effects", "noise"]
)
def test_the_interval_is_that_of_the_definitions(seed_sd, item_sd, noise_sd):
    generator = np.random.default_rng(0)
    table = two_way(generator, 7, seed_sd=seed_sd, item_sd=item_sd, noise_sd=noise_sd)
    tables, n = list(table.values()), 7
    mean, variance = naive_bootstrap(tables, np.arange(n), [np.arange(t.shape[1]) for t in tables])
    generator = np.random.default_rng(1)
    shares = []
    for _ in range(4000):
        seeds = generator.integers(n, size=n)
        items = [generator.integers(t.shape[1], size=t.shape[1]) for t in tables]
        drawn_mean, drawn_variance = naive_bootstrap(tables, seeds, items)
        shares.append((drawn_mean - mean) / math.sqrt(drawn_variance))
    upper, lower = np.quantile(shares, [0.975, 0.025])
    expected = (mean - upper * math.sqrt(variance), mean - lower * math.sqrt(variance))
    found = crossed_bootstrap(table, np.random.default_rng(2), resamples=4000)
    assert found.mean == pytest.approx(mean)
    assert (found.seeds, found.items) == (7, 51)
    width = expected[1] - expected[0]
    assert (found.low, found.high) == pytest.approx(expected, abs=0.06 * width)


def test_the_same_generator_gives_the_same_interval():
    table = two_way(np.random.default_rng(0), 6, seed_sd=0.1, item_sd=0.1, noise_sd=0.1)
    first = crossed_bootstrap(table, np.random.default_rng(5), resamples=200)
    second = crossed_bootstrap(table, np.random.default_rng(5), resamples=200)
    other = crossed_bootstrap(table, np.random.default_rng(6), resamples=200)
    assert first == second
    assert first != other


def test_what_has_no_spread_has_no_width_and_what_is_too_little_no_interval():
    same = crossed_bootstrap({"a": np.full((3, 4), 0.25)}, np.random.default_rng(0))
    assert (same.low, same.mean, same.high) == (0.25, 0.25, 0.25)
    assert crossed_bootstrap({"a": np.zeros((1, 4))}, np.random.default_rng(0)) is None
    assert crossed_bootstrap({"a": np.zeros((3, 1))}, np.random.default_rng(0)) is None
    assert crossed_bootstrap({}, np.random.default_rng(0)) is None
