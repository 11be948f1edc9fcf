"""Shares of a range and its values: every value has its own part of the unit interval, as wide as the scale says."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from naslab.nas.numeric import _levels, from_unit, to_unit

EDGE = 1e-9
"""From an edge: far more than the rounding of a share, far less than any part."""


@pytest.mark.parametrize(("low", "high", "step"), [(1, 9, 2), (0, 9, 1), (-3, 9, 4), (5, 5, 1)])
def test_values_of_a_stepped_range_have_equal_parts(low, high, step):
    distribution = IntDistribution(low, high, step=step)
    values = list(range(low, high + 1, step))
    for index, value in enumerate(values):
        first, last = index / len(values) + EDGE, (index + 1) / len(values) - EDGE
        assert [from_unit(distribution, u) for u in (first, last)] == [value, value]
        assert to_unit(distribution, value) == pytest.approx((index + 0.5) / len(values)), "its middle"
    assert from_unit(distribution, 1.0) == values[-1]


@pytest.mark.parametrize(("low", "high"), [(1, 8), (8, 512), (3, 3)])
def test_a_whole_number_on_a_log_scale_has_the_part_from_half_below_to_half_above(low, high):
    distribution = IntDistribution(low, high, log=True)
    bottom, width = math.log(low - 0.5), math.log((high + 0.5) / (low - 0.5))
    for value in {low, low + 1, (low + high) // 2, high} & set(range(low, high + 1)):
        edges = [(math.log(value + half) - bottom) / width for half in (-0.5, 0.5)]
        assert [from_unit(distribution, u) for u in (edges[0] + EDGE, edges[1] - EDGE)] == [value, value]
        assert edges[0] < to_unit(distribution, value) < edges[1]
        assert to_unit(distribution, value) == pytest.approx((math.log(value) - bottom) / width)
    assert [from_unit(distribution, u) for u in (0.0, 1.0)] == [low, high]


def test_a_range_is_divided_evenly_on_its_scale():
    assert [from_unit(FloatDistribution(2, 10), u) for u in (0.0, 0.25, 1.0)] == [2.0, 4.0, 10.0]
    assert [from_unit(FloatDistribution(1, 100, log=True), u) for u in (0.0, 0.5, 1.0)] == pytest.approx([1, 10, 100])
    assert [to_unit(FloatDistribution(2, 10), v) for v in (2.0, 4.0, 10.0)] == [0.0, 0.25, 1.0]
    assert [to_unit(FloatDistribution(1, 100, log=True), v) for v in (1.0, 10.0, 100.0)] == pytest.approx([0, 0.5, 1])
    assert to_unit(FloatDistribution(3, 3), 3.0) == to_unit(FloatDistribution(3, 3, log=True), 3.0) == 0.5


@given(st.floats(1e-3, 1e3), st.floats(1.0, 1e4), st.floats(0, 1), st.booleans())
@settings(deadline=None)
def test_no_value_is_outside_its_range(low, factor, u, log):
    distribution = FloatDistribution(low, low * factor, log=log)
    value = from_unit(distribution, u)
    assert distribution.low <= value <= distribution.high * (1 if log else 1 + 1e-12)
    if factor > 1.001:
        assert to_unit(distribution, value) == pytest.approx(u, abs=1e-9)


def test_choices_have_equal_parts():
    distribution = CategoricalDistribution(("a", "b", "c"))
    assert [from_unit(distribution, u) for u in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("levels", range(2, 8))
@pytest.mark.parametrize(
    "distribution",
    [
        IntDistribution(1, 9, step=2),
        IntDistribution(1, 40),
        FloatDistribution(0, 1),
        FloatDistribution(0.1, 10, log=True),
    ],
    ids=str,
)
def test_a_lattice_has_so_many_values_both_ends_among_them_evenly_spaced(distribution, levels):
    found = _levels(distribution, levels)
    whole = isinstance(distribution, IntDistribution)
    count = (distribution.high - distribution.low) // distribution.step + 1 if whole else levels
    assert len(found) == min(levels, count)
    assert (found[0], found[-1]) == pytest.approx((distribution.low, distribution.high))
    scaled = [math.log(value) if getattr(distribution, "log", False) else value for value in found]
    steps = [after - before for before, after in pairwise(scaled)]
    assert max(steps) - min(steps) <= (distribution.step if whole else 1e-9)
    assert _levels(CategoricalDistribution(("x", "y")), levels) == ["x", "y"]
