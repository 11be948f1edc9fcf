import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from naslab.nas.statistics import (
    Interval,
    difference_interval,
    interval_over,
    mean_interval,
    paired_interval,
    ratio_interval,
    spread_of_difference,
    student,
)


def test_intervals_are_scipys():
    a, b = [80.1, 81.3, 79.7, 80.0], [78.0, 80.5, 79.1]
    expected = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    ours = mean_interval(a)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    difference = difference_interval(a, b)
    assert (difference.low, difference.high) == pytest.approx((welch.low, welch.high))
    assert difference.mean == pytest.approx(np.mean(a) - np.mean(b))


def test_one_observation_has_no_interval():
    assert mean_interval([3.0]) == mean_interval([3.0])
    assert mean_interval([3.0]).low is None
    assert difference_interval([3.0], [1.0, 2.0]).high is None


def test_equal_observations_have_a_point():
    assert difference_interval([2.0, 2.0], [1.0, 1.0]).low == 1.0


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="empty"):
        mean_interval([])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(5, 2, 4).tolist()) for _ in range(2000)]
    assert np.mean([i.low <= 5 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(1e-9, 2, True), (0, 2, False), (-2, 0, False), (-2, -1e-9, True), (-1, 1, False), (None, None, False)],
)
def test_zero_at_a_bound_is_not_excluded(low, high, excludes):
    assert Interval(1.0, low, high).excludes_zero is excludes


def test_a_negative_factor_swaps_the_bounds():
    assert Interval(2.0, 1.0, 4.0).scaled(-2.0) == Interval(-4.0, -8.0, -2.0)
    assert Interval(2.0, 1.0, 4.0).scaled(0.5) == Interval(1.0, 0.5, 2.0)
    assert Interval(2.0, None, None).scaled(-1.0) == Interval(-2.0, None, None)
    assert [str(Interval(80.123, low, 81.0)) for low in (None, 79.5)] == ["80.12", "80.12 [79.50, 81.00]"]


def test_two_shared_seeds_make_pairs_and_one_does_not():
    a, b = {0: 1.0, 1: 2.0, 2: 5.0}, {1: 1.0, 2: 2.0, 9: 100.0}
    assert paired_interval(a, b) == mean_interval([1.0, 3.0])
    assert paired_interval(a, {2: 2.0, 9: 3.0}) == difference_interval([1.0, 2.0, 5.0], [2.0, 3.0])
    assert spread_of_difference(a, b) == pytest.approx(np.std([1.0, 3.0], ddof=1))
    assert spread_of_difference(a, {2: 2.0, 9: 3.0}) == pytest.approx(math.sqrt(13 / 3 + 0.5))
    assert spread_of_difference(a, {2: 2.0}) is spread_of_difference({0: 1.0}, {7: 2.0, 8: 3.0}) is None


def test_a_floor_is_a_number_pairs_or_values_of_no_seeds():
    a = {0: 81.0, 1: 80.0, 2: 83.0}
    assert interval_over(a, [80.0]) == mean_interval([1.0, 0.0, 3.0])
    assert interval_over(a, {0: 80.0, 1: 80.0}) == mean_interval([1.0, 0.0])
    values = [79.0, 80.5]
    welch = difference_interval(list(a.values()), values)
    assert interval_over(a, values).high == pytest.approx(welch.high)
    for factor, wider in ((3.0, 3.0), (0.5, 1.0)):  # never narrower than one look's
        found = interval_over(a, values, lambda n, factor=factor: factor * student(n))
        assert found.mean == welch.mean
        assert (found.low, found.high) == pytest.approx(
            [welch.mean + wider * (bound - welch.mean) for bound in (welch.low, welch.high)]
        )
    assert interval_over({0: 81.0}, values).low is None


def test_a_ratio_is_of_geometric_means_in_pairs():
    a, b = {0: 2.0, 1: 8.0}, {0: 1.0, 1: 2.0}
    logs = mean_interval([math.log(2), math.log(4)])
    found = ratio_interval(a, b)
    assert (found.mean, found.low, found.high) == pytest.approx(tuple(map(math.exp, (logs.mean, logs.low, logs.high))))
    assert found.mean == pytest.approx(math.sqrt(8))
    assert ratio_interval({0: 2.0}, b).high is None
    with pytest.raises(ValueError, match=r"domain|positive"):
        ratio_interval({0: 0.0}, b)


def test_the_critical_value_is_students_unless_another_is_given():
    assert student(4) == pytest.approx(stats.t.ppf(0.975, 3))
    assert student(4, level=0.8) == pytest.approx(stats.t.ppf(0.9, 3))
    found = mean_interval([1.0, 3.0, 8.0], lambda seeds: float(seeds))
    assert found.high - found.mean == found.mean - found.low == pytest.approx(3 * math.sqrt(13 / 3))


# Of a fixed grid, so that no sum of squares is lost to rounding.
observations = st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=1, max_size=6)


def bounds(interval):
    return interval.mean, interval.low, interval.high


@given(observations, observations)
@settings(deadline=None)
def test_a_difference_turned_round_is_its_negative(a, b):
    there, back = difference_interval(a, b), difference_interval(b, a).scaled(-1.0)
    if there.low is None:
        assert bounds(back) == (pytest.approx(there.mean), None, None)
    else:
        assert bounds(back) == pytest.approx(bounds(there), abs=1e-9)
    by_seed = dict(enumerate(a)), {100 + i: value for i, value in enumerate(b)}
    assert spread_of_difference(*by_seed) == pytest.approx(spread_of_difference(*reversed(by_seed)), abs=1e-9)


@given(observations, st.sampled_from([0.25, 4.0]), st.integers(-64, 64))
@settings(deadline=None)
def test_a_mean_moves_and_scales_with_its_observations(values, factor, shift):
    before, after = mean_interval(values), mean_interval([factor * value + shift for value in values])
    if len(values) == 1:
        assert bounds(after) == (factor * values[0] + shift, None, None)
    else:
        assert bounds(after) == pytest.approx([factor * bound + shift for bound in bounds(before)], abs=1e-8)


def test_two_observations_are_enough_on_either_side():
    a, b = [1.0, 3.0], [10.0, 11.0, 15.0]
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = difference_interval(a, b)
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high))
    assert spread_of_difference(dict(enumerate(a)), {7: 10.0, 8: 11.0, 9: 15.0}) == pytest.approx(math.sqrt(2 + 7))
    assert spread_of_difference({0: 1.0, 1: 3.0}, {7: 10.0, 8: 12.0}) == pytest.approx(2.0)


@pytest.mark.parametrize(("a", "b"), [([], [1.0]), ([1.0], []), ([], [])])
def test_a_difference_of_nothing_is_refused_by_name(a, b):
    with pytest.raises(ValueError, match="at least one value on each side"):
        difference_interval(a, b)


@pytest.mark.parametrize(("low", "high"), [(None, 3.0), (1.0, None)])
def test_an_interval_with_one_bound_has_none(low, high):
    half = Interval(2.0, low, high)
    assert str(half) == "2.00"
    assert not half.excludes_zero
    assert half.scaled(3.0) == Interval(6.0, None, None)


@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=5),
    st.lists(st.floats(-10, 10), min_size=2, max_size=5),
    st.sampled_from([0, 2, 9]),
)
def test_a_wider_claim_has_a_wider_interval_whether_or_not_seeds_are_shared(a, b, apart):
    """Of a critical value of twice Student's, every interval is twice as wide around the same mean."""
    left, right = dict(enumerate(a)), {seed + apart: value for seed, value in enumerate(b)}
    once, twice = (paired_interval(left, right, reach) for reach in (student, lambda n: 2 * student(n)))
    assert twice.mean == once.mean
    assert twice.high - twice.mean == pytest.approx(2 * (once.high - once.mean), abs=1e-9)
    assert twice.low - twice.mean == pytest.approx(2 * (once.low - once.mean), abs=1e-9)


@pytest.mark.parametrize("b", [{0: 1.0, 1: 1.0}, {0: 1.0, 1: 2.0}, {5: 1.0, 6: 2.0}])
def test_what_has_no_interval_yet_has_no_bounds_rather_than_infinite_ones(b):
    """Infinity is no number of a document, and infinity times a deviation of 0 is none at all."""
    for found in (paired_interval({0: 3.0, 1: 3.0}, b, never), mean_interval(list(b.values()), never)):
        assert (found.low, found.high) == (None, None)
    assert interval_over({0: 3.0, 1: 4.0}, list(b.values()), never).low is None


def never(observations):
    return math.inf
