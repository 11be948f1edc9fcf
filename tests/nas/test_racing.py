"""The race gives seeds only where they may change the decision, and its bounds are wider than one look's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.nas.racing import Contender, Looks, boundary, next_seeds, open_rows
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
