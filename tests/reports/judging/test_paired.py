import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from gatera.reports.judging.paired import (
    detectable_difference,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    paired_power,
    rank_agreement,
    seeds_to_resolve,
)


def test_a_paired_difference_is_that_of_scipys_paired_t_test():
    values = {0: 0.61, 1: 0.72, 2: 0.58, 3: 0.66}
    reference = {1: 0.70, 2: 0.60, 3: 0.59, 0: 0.55, 9: 0.1}
    found = paired_difference(values, reference)
    a = [values[seed] for seed in range(4)]
    b = [reference[seed] for seed in range(4)]
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert found.pairs == 4
    assert found.mean == pytest.approx(np.mean(np.subtract(a, b)))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(test.pvalue)


def test_seeds_that_only_one_arm_has_are_left_out():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    one = paired_difference({0: 0.5, 1: 0.9}, {0: 0.25})
    assert (one.mean, one.pairs) == (0.25, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.p)


@pytest.mark.parametrize(
    ("values", "reference", "mean"),
    [
        ({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5}, 0.25),
        ({0: 0.5, 1: 0.75}, {0: 0.5, 1: 0.75}, 0.0),
        ({0: 0.3, 1: 0.4, 2: 0.5}, {0: 0.1, 1: 0.2, 2: 0.3}, 0.2),  # equal but for rounding
    ],
)
def test_differences_without_spread_are_not_tested(values, reference, mean):
    found = paired_difference(values, reference)
    assert found.mean == pytest.approx(mean)
    assert found.sd == 0
    assert all(math.isnan(each) for each in (found.low, found.high, found.p))


def test_holm_steps_down_and_keeps_the_order():
    # By hand: 3 * 0.01, then max(0.03, 2 * 0.02), then max(0.04, 1 * 0.9).
    assert holm([0.9, 0.01, 0.02]) == pytest.approx([0.9, 0.03, 0.04])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_what_it_says(n):
    draws = np.random.default_rng(n).normal(0.3, 1.0, size=(20_000, n))
    means, errors = draws.mean(1), draws.std(1, ddof=1) / math.sqrt(n)
    index = np.random.default_rng(0).integers(20_000, size=20)
    for row in draws[index]:  # the function agrees with the formula that is simulated below
        found = paired_difference(dict(enumerate(row)), dict.fromkeys(range(n), 0.0))
        half = stats.t.ppf(0.975, n - 1) * row.std(ddof=1) / math.sqrt(n)
        assert (found.low, found.high) == pytest.approx((row.mean() - half, row.mean() + half))
    covered = np.abs(means - 0.3) <= stats.t.ppf(0.975, n - 1) * errors
    assert covered.mean() == pytest.approx(0.95, abs=0.01)


def test_power_agrees_with_simulation():
    draws = np.random.default_rng(1).normal(0.81, 1.09, size=(20_000, 5))
    p_values = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    simulated = (p_values < 0.05).mean()
    assert paired_power(0.81, 1.09, 5) == pytest.approx(simulated, abs=0.01)


def power_by_quadrature(shift, degrees, critical):
    """Return P(|Z + shift| > critical * sqrt(V / degrees)), V chi-square, integrated over V."""

    def integrand(v):
        edge = critical * math.sqrt(v / degrees)
        both = stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)
        return stats.chi2.pdf(v, degrees) * both

    ends = [0, *stats.chi2.ppf([1e-12, 1e-6, 0.01, 0.2, 0.5, 0.8, 0.99, 1 - 1e-14], degrees)]
    return sum(integrate.quad(integrand, *each, limit=200)[0] for each in itertools.pairwise(ends))


@pytest.mark.parametrize("n", [2, 3, 5, 10, 20])
def test_power_is_that_of_the_integral_however_large_the_difference(n):
    for difference, alpha in itertools.product((0.1, 0.5, 1, 2, 4, 7, 20), (0.05, 0.05 / 9)):
        critical = stats.t.ppf(1 - alpha / 2, n - 1)
        expected = power_by_quadrature(difference * math.sqrt(n), n - 1, critical)
        assert paired_power(difference, 1.0, n, alpha=alpha) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
def test_the_detectable_difference_has_the_power_that_it_names(n):
    found = detectable_difference(0.5, n)
    critical = stats.t.ppf(0.975, n - 1)
    power = power_by_quadrature(found / 0.5 * math.sqrt(n), n - 1, critical)
    assert power == pytest.approx(0.8, abs=1e-5)
    assert detectable_difference(0.5, 1) is None


@pytest.mark.parametrize(("difference", "alpha"), [(0.4, 0.05), (0.4, 0.05 / 3), (6.0, 0.05)])
def test_the_seeds_named_are_the_fewest_that_resolve(difference, alpha):
    needed = seeds_to_resolve(difference, 0.8, alpha=alpha)
    assert paired_power(difference, 0.8, needed, alpha=alpha) >= 0.8
    if needed > 2:
        assert paired_power(difference, 0.8, needed - 1, alpha=alpha) < 0.8


def test_no_number_of_seeds_is_named_where_none_resolves():
    assert seeds_to_resolve(0.0, 0.8) is None
    assert seeds_to_resolve(1e-9, 0.8) is None
    assert seeds_to_resolve(0.4, 0.0) is None
    assert seeds_to_resolve(0.4, math.nan) is None
    assert seeds_to_resolve(6.0, 1.0) == 3  # two seeds find it in 55 of 100 studies


def test_the_detectable_difference_is_found_as_often_as_simulated():
    found = detectable_difference(0.77, 10)
    draws = np.random.default_rng(2).normal(found, 0.77, size=(20_000, 10))
    p_values = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
    assert (p_values < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_the_family_of_six_null_rows_errs_at_most_in_its_level():
    # Six rows share their reference, as in a table: their differences are correlated.
    generator = np.random.default_rng(3)
    runs, n = 8000, 5
    arms = generator.normal(0, 1, size=(runs, 6, n))
    reference = generator.normal(0, 1, size=(runs, 1, n))
    p_values = stats.ttest_1samp(arms - reference, 0.0, axis=2).pvalue
    wrong = sum(min(holm(row)) < 0.05 for row in p_values.tolist())
    assert wrong / runs <= 0.055
    assert wrong / runs > 0.02  # the procedure still finds something: it is not blunt


def test_mcnemar_counts_what_one_run_alone_gets_right():
    first = [True] * 9 + [False] * 2 + [True] * 20 + [False] * 5
    second = [False] * 9 + [True] * 2 + [True] * 20 + [False] * 5
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (9, 2)
    # By hand: 2 (C(11,0) + C(11,1) + C(11,2)) / 2^11.
    assert found.p == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert mcnemar([True, False], [True, False]).p == 1.0
    with pytest.raises(ValueError, match="first run has 1 items, the second 2"):
        mcnemar([True], [True, False])


def test_a_mean_over_seeds_has_its_t_interval():
    values = [0.2, 0.5, 0.3, 0.8]
    found = mean_interval(values)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.45)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.seeds == 4
    assert math.isnan(mean_interval([0.3]).low)
    assert mean_interval([]) is None


def test_tau_is_that_of_scipy_and_its_interval_holds_it():
    generator = np.random.default_rng(4)
    published = [86.72, 86.97, 87.08, 87.53, 85.0]
    scores = np.array(published)[:, None] / 100 + generator.normal(0, 0.01, (5, 6))
    found = rank_agreement(scores.tolist(), published)
    assert found.tau == pytest.approx(stats.kendalltau(scores.mean(1), published).statistic)
    assert found.low <= found.tau <= found.high
    assert (found.rows, found.seeds) == (5, 6)


def test_the_order_of_rows_counts_as_known_where_their_interval_excludes_zero():
    noise = [0.0, 0.001, -0.001, 0.0005]
    apart = [[0.1 + each for each in noise], [0.5, 0.5, 0.5, 0.5]]
    order = rank_agreement(apart, [1.0, 2.0])
    assert (order.tau, order.low, order.high) == (1.0, 1.0, 1.0)
    reverse = rank_agreement(apart, [2.0, 1.0])
    assert (reverse.tau, reverse.low, reverse.high) == (-1.0, -1.0, -1.0)
    # The third row cannot be told from the second: two of three pairs are known.
    near = [*apart, [0.4, 0.6, 0.55, 0.46]]
    three = rank_agreement(near, [1.0, 2.0, 3.0])
    assert three.tau == pytest.approx(1.0)
    assert (three.low, three.high) == pytest.approx((1 / 3, 1.0))
    one = rank_agreement([[0.1], [0.2]], [1.0, 2.0])
    assert one.tau == 1.0
    assert math.isnan(one.low)
    assert rank_agreement([[0.1]], [2.0]) is None


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_interval_of_tau_covers_what_it_says(n):
    published = [86.72, 86.97, 87.08, 87.53]
    truth = np.array([87.53, 86.97, 87.3, 87.08])  # one order of four rows in the paper's steps
    tau = stats.kendalltau(truth, published).statistic
    generator = np.random.default_rng(n)
    covered, runs = 0, 400
    for _ in range(runs):
        found = rank_agreement((truth[:, None] + generator.normal(0, 0.77, (4, n))), published)
        covered += found.low <= tau + 1e-9 and tau - 1e-9 <= found.high
    assert covered / runs >= 0.94
