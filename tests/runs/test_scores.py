"""What a task may hand over as a score, and what it may not."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from naslab.nas.statistics import mean_interval
from naslab.runs.scores import LARGEST, BadScores, read_rung, read_scores, rungs_of
from naslab.search_spaces import Rung


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.float16, torch.tensor, np.array, Decimal, Fraction])
def test_numbers_of_any_kind_become_floats(kind):
    scores = read_scores({"score": kind(0.5)}, "score")
    assert scores == {"score": 0.5}
    assert type(scores["score"]) is float


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, lambda n: torch.tensor(n, dtype=torch.int32)])
def test_whole_numbers_too(kind):
    assert read_scores({"score": kind(3)}, "score") == {"score": 3.0}


def test_a_tensor_that_asks_for_its_gradient_is_a_number():
    assert read_scores({"score": torch.tensor(2.0, requires_grad=True, dtype=torch.bfloat16)}, "score")["score"] == 2.0


@given(
    st.dictionaries(st.text(), st.floats() | st.floats(-1e9, 1e9)),
    st.floats(-LARGEST, LARGEST, exclude_min=True, exclude_max=True),
)
def test_what_comes_out_is_usable_and_as_it_was(others, metric):
    scores = read_scores({**others, "score": metric}, "score")
    assert scores == {k: v for k, v in {**others, "score": metric}.items() if abs(v) < LARGEST}


@given(st.lists(st.floats(-LARGEST, LARGEST, exclude_min=True, exclude_max=True), min_size=2, max_size=9))
def test_an_interval_of_usable_scores_overflows_nowhere(scores):
    found = mean_interval(scores)
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)


class Raises:
    """A number of the user's own that breaks, and cannot even be shown."""

    shape = ()

    def item(self):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [1 + 0j, np.complex64(1), torch.tensor(1 + 0j), np.ma.masked, torch.empty((), device="meta"), Decimal("sNaN"),
     True, np.bool_(True), torch.tensor(True), np.array([0.5]), torch.tensor([0.5]), "0.9", b"0.9", 10**400, Raises(),
     np.timedelta64(1, "s"), {"a": 0.5}],
)  # fmt: skip
def test_what_is_no_real_number_is_no_score(value):
    with pytest.raises(BadScores, match=r"score is .*not a number"):
        read_scores({"score": value}, "score")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "None"),
        (0.9, "0.9"),
        ([("score", 0.9)], "list"),
        ({}, "no scores"),
        ({"accuracy": 0.9, "loss": 1.0}, "'accuracy', 'loss'"),
        ({3: 0.9}, "3"),
        ({"score": "0.9"}, "'0.9'"),
        ({"score": None}, "None"),
        ({"score": True}, "True"),
        ({"score": np.bool_(True)}, "True"),
        ({"score": torch.tensor(True)}, "True"),
        ({"score": 1j}, "1j"),
        ({"score": torch.ones(1)}, "tensor"),
        ({"score": np.ones(2)}, "ndarray"),
        ({"score": float("nan")}, "score is nan"),
        ({"score": torch.tensor(float("inf"))}, "score is inf"),
        ({"score": 1e200}, "score is 1e+200, beyond 1e+100"),
        ({"score": 10**400}, "not a number"),
        ({"score": 0.9, "loss": "low"}, "loss is 'low'"),
    ],
)
def test_anything_else_is_refused_in_one_line_that_names_it(returned, words):
    with pytest.raises(BadScores) as caught:
        read_scores(returned, "score")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rung_has_a_whole_epoch_and_numbers_as_facts():
    rung = read_rung(Rung(np.int64(2), {"loss": np.float32(0.5), "norm": torch.tensor(float("nan"))}))
    assert rung == Rung(2, {"loss": 0.5})
    assert type(rung.epoch) is int
    assert read_rung(Rung(1, policy={"precision": "float16"})).policy == {"precision": "float16"}
    unwritable = Rung(1, policy={"precision": torch.float16})
    for wrong in (None, 3, Rung(1.5), Rung(1, {"loss": "low"}), unwritable, Rung(1, policy=3)):
        with pytest.raises(BadScores):
            read_rung(wrong)


def test_a_training_that_yields_nothing_is_told_so():
    assert list(rungs_of(iter([Rung(1)]))) == [Rung(1)]
    with pytest.raises(BadScores, match=r"train returned None \(NoneType\), not rungs; it yields one after each epoch"):
        rungs_of(None)
