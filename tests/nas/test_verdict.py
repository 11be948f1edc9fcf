"""Verdicts at a margin, how many seeds would tell a difference, and the published defaults of the alphas' optimiser."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.nas.arms import AlphaOptimiser
from naslab.nas.statistics import Interval
from naslab.nas.verdict import MOST_SEEDS, judge, seeds_to_tell, tellable


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.9, 3.0, "meets"),
        (-1.0, 3.0, "undecided"),  # at the margin nothing is shown
        (-3.0, -1.0, "undecided"),
        (-3.0, -1.1, "below"),
        (None, None, "undecided"),
        (-0.5, None, "undecided"),
        (None, -3.0, "undecided"),
    ],
)
def test_a_verdict_is_what_the_whole_interval_shows(low, high, verdict):
    assert judge(Interval(0.0, low, high), 1.0) == verdict


@given(st.floats(1e-3, 10), st.floats(1e-2, 10))
@settings(deadline=None)
def test_the_seeds_that_tell_a_difference_are_the_fewest(deviation, difference):
    seeds = seeds_to_tell(deviation, difference)
    if seeds is None:
        assert tellable(deviation, MOST_SEEDS) > difference
        return
    assert 2 <= seeds <= MOST_SEEDS
    assert tellable(deviation, seeds) <= difference
    assert seeds == 2 or tellable(deviation, seeds - 1) > difference


def test_two_seeds_tell_a_difference_that_is_far_above_the_noise():
    assert seeds_to_tell(1e-3, 1.0) == 2
    with pytest.raises(ValueError, match="difference"):
        seeds_to_tell(1.0, 0.0)


def test_with_many_seeds_a_difference_is_told_at_the_normal_quantiles():
    # 1.645 to either side of 5 %, and 1.282 for a power of 90 %.
    assert tellable(1.0, 1000) * math.sqrt(1000) == pytest.approx(1.960 + 1.282, rel=0.01)


def test_the_alphas_are_trained_as_in_darts():
    alphas = AlphaOptimiser()
    assert (alphas.learning_rate, alphas.betas, alphas.weight_decay) == (3e-4, (0.5, 0.999), 1e-3)


@pytest.mark.parametrize("seeds", [2, 3, 50, 999, 1000])
def test_a_difference_that_so_many_seeds_just_tell_takes_that_many(seeds):
    just = tellable(2.0, seeds)
    assert seeds_to_tell(2.0, just) == seeds
    assert seeds_to_tell(2.0, just * (1 - 1e-9)) == (seeds + 1 if seeds < 1000 else None), "at most 1000 are advised"


@given(st.integers(2, 1000), st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_what_can_be_told_grows_with_the_noise(seeds, deviation):
    assert tellable(deviation, seeds) == pytest.approx(deviation * tellable(1.0, seeds))
