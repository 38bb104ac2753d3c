import math

import numpy as np
import pytest
from scipy import stats

from gatera.reports.statistics import (
    detectable_difference,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    paired_power,
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


def test_equal_differences_have_no_spread():
    same = paired_difference({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5})
    assert (same.low, same.mean, same.high, same.p) == (0.25, 0.25, 0.25, 0.0)
    none = paired_difference({0: 0.5, 1: 0.75}, {0: 0.5, 1: 0.75})
    assert none.p == 1.0


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


def test_the_detectable_difference_has_the_power_that_it_names():
    found = detectable_difference(0.5, 5)
    assert paired_power(found, 0.5, 5) == pytest.approx(0.8, abs=1e-6)
    assert detectable_difference(0.5, 1) is None


def test_the_seeds_named_are_the_fewest_that_resolve():
    needed = seeds_to_resolve(0.4, 0.8)
    assert paired_power(0.4, 0.8, needed) >= 0.8 > paired_power(0.4, 0.8, needed - 1)
    assert seeds_to_resolve(0.0, 0.8) is None
    assert seeds_to_resolve(1e-9, 0.8) is None
    assert seeds_to_resolve(0.4, 0.0) == 2


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
