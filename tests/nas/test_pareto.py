import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study._multi_objective import _fast_non_domination_rank

from naslab.nas.pareto import dominates, first_front, fronts, spread

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20)


@given(points)
@settings(deadline=None)
def test_fronts_are_those_of_repeated_removal(given_points):
    numbers = fronts(given_points)
    for point, number in zip(given_points, numbers, strict=True):
        above = [n for other, n in zip(given_points, numbers, strict=True) if dominates(other, point)]
        assert number == 1 + max(above, default=0)


@given(points)
@settings(deadline=None)
def test_the_first_front_agrees_with_optuna(given_points):
    losses = np.array([[-score, cost] for score, cost in given_points], dtype=float)
    assert [n - 1 for n in fronts(given_points)] == _fast_non_domination_rank(losses).tolist()


def test_a_spread_has_both_ends_and_the_best_first():
    front = [(90.0, 9.0), (80.0, 5.0), (70.0, 3.0), (60.0, 1.0)]
    given_points = [(50.0, 4.0), *front, front[1]]
    assert first_front(given_points) == [1, 2, 3, 4, 5]
    assert spread(given_points, 1) == [1]
    assert spread(given_points, 2) == [1, 4]
    assert spread(given_points, 3) in ([1, 2, 4], [1, 3, 4])
    assert spread(given_points, 9) == [1, 2, 3, 4]
    assert spread([], 3) == []


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((1, 1), (1, 1), False), ((1, 1), (1, 2), True), ((2, 1), (1, 2), True), ((2, 2), (1, 1), False)],
)
def test_domination(a, b, expected):
    assert dominates(a, b) is expected
