"""The race gives seeds only where they may change the decision, and its bounds are wider than one look's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from naslab.nas.racing import PATHS, Contender, Looks, _t_paths, boundary, next_seeds, open_rows
from naslab.nas.statistics import student

LOOKS = Looks(3, 8)
values = st.lists(st.floats(50, 100), min_size=3, max_size=8)


def test_bounds_fall_and_the_last_is_wider_than_one_look_of_the_same_error():
    bounds = boundary(3, 8)
    assert list(bounds) == sorted(bounds, reverse=True)
    assert bounds[-1] > student(8, level=0.90)
    assert LOOKS.critical(20) == bounds[-1]


@given(st.lists(st.tuples(values, st.floats(0.5, 2)), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_only_rows_that_have_seeds_left_are_asked_for(rows):
    made = [
        Contender(str(i), dict(enumerate(q)), {s: v / cost for s, v in enumerate(q)})
        for i, (q, cost) in enumerate(rows)
    ]
    wanted = next_seeds(made, made[0].quality, 1.0, LOOKS, 0.05)
    assert all(len(row.quality) < LOOKS.last for row in made if row.name in wanted)
    assert wanted == [row.name for row in made if row.name in wanted], "in the order given"
    assert wanted == next_seeds(made, made[0].quality, 1.0, LOOKS, 0.05), "a pure function"
    everlasting = [Contender(r.name, dict.fromkeys(range(8), 80.0), dict.fromkeys(range(8), 80.0)) for r in made]
    assert next_seeds(everlasting, everlasting[0].quality, 1.0, LOOKS, 0.05) == []


@pytest.mark.parametrize(("quality", "cost", "wanted"), [
    ((80.0, 80.01, 80.02), 0.5, []), ((60.0, 60.01, 60.02), 0.5, []), ((75.0, 80.0, 85.0), 0.5, ["row"]),
    ((75.0, 80.0, 85.0), 2.0, []),
])  # fmt: skip
def test_settled_rows_get_no_seed(quality, cost, wanted):
    reference = Contender("reference", dict(enumerate((80.0, 80.01, 80.02))), dict(enumerate((80.0, 80.01, 80.02))))
    scores = {s: 80.0 / cost * (1 + 0.0001 * s) for s in range(3)}
    row = Contender("row", dict(enumerate(quality)), scores)
    assert next_seeds([reference, row], reference.quality, 1.0, LOOKS, 0.05) == wanted


@pytest.mark.filterwarnings("error")
def test_bounds_of_a_race_from_two_seeds_are_numbers():
    """Of two draws that are nearly equal, single precision would find a negative variance."""
    assert all(math.isfinite(bound) and bound > 1 for bound in boundary(2, 5))


FLOOR = dict(enumerate((80.0, 80.1, 79.9)))
QUALITIES = {"equal": (80.5, 80.4, 80.6), "unknown": (75.0, 80.0, 85.0), "worse": (60.0, 60.1, 60.2)}


def contender(name, quality, *score):
    return Contender(name, dict(enumerate(QUALITIES[quality])), dict(enumerate(score)))


REFERENCE = Contender("reference", dict(FLOOR), dict(enumerate((100.0, 101.0, 99.0))))
LEADER = contender("leader", "equal", 200.0, 202.0, 198.0)


@pytest.mark.parametrize(
    ("row", "tie", "still"),
    [
        (contender("as fast", "equal", 199.5, 201.0, 198.8), 0.05, set()),
        (contender("as fast", "equal", 199.5, 201.0, 198.8), 0.005, {"as fast", "leader"}),
        (contender("as fast", "equal", 200.0, 202.0, 198.0), 0.0, {"as fast", "leader"}),
        (contender("the same", "equal", 200.0, 202.0, 198.0), 0.05, set()),
        (contender("slower", "equal", 150.0, 152.0, 148.0), 0.0, set()),
        (contender("open", "unknown", 190.0, 210.0, 200.0), 0.05, {"open"}),
        (contender("open", "unknown", 199.5, 201.0, 198.8), 0.05, {"open"}),
        (contender("hopeless", "unknown", 10.0, 11.0, 9.0), 0.05, set()),
        (contender("below", "worse", 900.0, 901.0, 902.0), 0.05, set()),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_row_is_open_where_it_may_still_win(row, tie, still):
    assert open_rows([REFERENCE, LEADER, row], FLOOR, 1.0, student, tie) == still


def test_without_a_row_that_meets_the_floor_all_that_may_are_open():
    rows = [contender("open", "unknown", 1.0, 1.0, 1.0), contender("below", "worse", 9.0, 9.0, 9.0)]
    assert open_rows(rows, FLOOR, 1.0, student, 0.05) == {"open"}
    assert open_rows(rows, None, 1.0, student, 0.05) == set(), "without a floor all meet it, and the second is faster"
    assert open_rows(rows, [80.0], 1.0, student, 0.05) == {"open"}, "of a number"


def test_a_look_before_the_first_tells_nothing_and_none_is_narrower_than_students():
    bounds = boundary(3, 8)
    assert LOOKS.critical(2) == math.inf
    assert [LOOKS.critical(n) for n in range(3, 9)] == [
        max(b, student(n)) for n, b in zip(range(3, 9), bounds, strict=True)
    ]


def test_a_row_that_has_all_its_seeds_gets_no_more():
    row, other = contender("one", "equal", 199.5, 201.0, 198.8), LEADER
    assert next_seeds([row, other], FLOOR, 1.0, Looks(2, 4), 0.0) == ["one", "leader"]
    assert next_seeds([row, other], FLOOR, 1.0, Looks(2, 3), 0.0) == []


def first_crossings(statistics, bounds):
    """The share of studies whose |t| was beyond its bound at a look or before, by look."""
    beyond = np.abs(statistics) > np.asarray(bounds)
    return np.maximum.accumulate(beyond, axis=1).mean(axis=0)


@pytest.mark.parametrize(("first", "last"), [(3, 8), (2, 5)])
def test_the_error_is_spent_in_proportion_to_the_seeds(first, last):
    """10 % (5 to each side) by the last look. The first bound alone is a quantile of Student's t."""
    bounds, looks = boundary(first, last), np.arange(first, last + 1)
    # The density of t there turns the error of a simulated share, sqrt(p (1 - p) / paths), into that of the bound.
    spent = 0.10 * first / last
    exact = stats.t.isf(spent / 2, first - 1)
    error = math.sqrt(spent * (1 - spent) / PATHS) / (2 * stats.t.pdf(exact, first - 1))
    assert bounds[0] == pytest.approx(exact, abs=5 * error)
    studies = 100_000
    draws = np.random.default_rng(7).normal(size=(studies, last))
    statistics = np.stack([stats.ttest_1samp(draws[:, :n], 0, axis=1).statistic for n in looks], axis=1)
    # Five standard deviations of two independent simulations.
    tolerance = 5 * math.sqrt(0.1 * 0.9 * (1 / studies + 1 / PATHS))
    assert first_crossings(statistics, bounds) == pytest.approx(0.10 * looks / last, abs=tolerance)


def test_of_the_simulated_studies_exactly_the_allowed_share_is_beyond_the_bounds():
    spent = first_crossings(_t_paths(3, 8), boundary(3, 8)) * PATHS
    assert spent.round().tolist() == [round(0.10 * n / 8 * PATHS) for n in range(3, 9)]


def pair(name, *score):
    return Contender(name, {0: 80.5, 1: 80.5}, dict(enumerate(score)))


@pytest.mark.parametrize(("tie", "still"), [(0.0149, {"row", "leader"}), (0.015, {"row", "leader"}), (0.02, set())])
def test_a_tie_is_strictly_within_its_share_of_the_leaders_score(tie, still):
    """One standard error to each side of -0.5 reaches from -1.5 to 0.5; 1.5 % of the leader's 100 is 1.5."""
    rows = [pair("row", 98.5, 100.5), pair("leader", 100.0, 100.0)]
    assert open_rows(rows, None, 1.0, lambda seeds: 1.0, tie) == still


def test_a_row_that_its_pairs_show_ahead_of_the_leader_is_settled():
    """The leader's mean is higher for a seed that the row does not have."""
    leader = Contender("leader", dict.fromkeys(range(3), 80.5), {0: 198.5, 1: 198.5, 2: 300.0})
    assert open_rows([pair("row", 199.0, 199.0), leader], None, 1.0, student, 0.0) == set()


def test_the_floor_itself_meets_it_whatever_its_noise():
    noisy = Contender("reference", {0: 70.0, 1: 80.0, 2: 90.0}, {0: 1.0, 1: 1.0, 2: 1.0})
    other = Contender("row", {0: 70.0, 1: 80.0, 2: 90.0}, {0: 2.0, 1: 2.0, 2: 2.0})
    assert open_rows([noisy, other], dict(noisy.quality), 1.0, student, 0.0) == set(), "both meet it, one is faster"
    assert open_rows([noisy, other], (70.0, 80.0, 90.0), 1.0, student, 0.0) == {"reference", "row"}


def test_looks_are_those_of_the_first_seeds_to_the_last():
    assert len(boundary(3, 8)) == 6
    assert len(boundary(2, 2)) == 1
    assert boundary(2, 2)[0] == pytest.approx(stats.t.isf(0.05, 1), rel=0.05)
    assert Looks(2, 2).critical(2) == student(2), "never fewer than one look's"
