"""The race gives seeds only where they may change the decision, and its bounds are wider than one look's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.nas.racing import Contender, Looks, boundary, next_seeds
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
