import numpy as np
import pytest
from scipy import stats

from naslab.nas.statistics import difference_interval, mean_interval


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
