"""How many tokens are replaced, and which: the schedules of Bengio et al. and DySI's by accuracy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.search_spaces.common.objectives.scheduled_sampling import (
    chosen,
    dynamic_counts,
    exponential,
    gold_share,
    inverse_sigmoid,
    linear,
    sampled,
    steepness,
)
from naslab.search_spaces.dysi.model import Recipe

BY_STEP = ("linear", "exponential", "inverse_sigmoid")

PUBLISHED = [
    # From running the three expressions of ss_on_decoding_steps (nmt/THUMT-schedule_composite, models/transformer.py)
    # with numpy: step; linear over 300,000 steps; exponential of radix .99997; inverse sigmoid of k = 20,000.
    (0, 1.0, 1.0, 0.999950002499875),
    (1, 0.9999966666666666, 0.99997, 0.9999500000000625),
    (20_000, 0.9333333333333333, 0.548806696713021, 0.9998641043787069),
    (150_000, 0.5, 0.011108246691329123, 0.9170928605101413),
    (300_000, 0.0, 0.0001233931445554244, 0.006080843527125393),
]


@pytest.mark.parametrize(("step", "of_linear", "of_exponential", "of_sigmoid"), PUBLISHED)
def test_the_schedules_are_those_of_published_code(step, of_linear, of_exponential, of_sigmoid):
    assert linear(step, 1.0, 1 / 300_000) == pytest.approx(of_linear, rel=1e-12, abs=1e-12)
    assert exponential(step, 0.99997) == pytest.approx(of_exponential, rel=1e-12)
    assert inverse_sigmoid(step, 20_000) == pytest.approx(of_sigmoid, rel=1e-12)


@pytest.mark.parametrize("schedule", BY_STEP)
@given(half=st.floats(0.5, 1e6), later=st.floats(1, 3))
def test_half_of_the_tokens_are_gold_at_the_half_life_and_fewer_later(schedule, half, later):
    assert gold_share(schedule, half, half) == pytest.approx(0.5, abs=1e-6)
    assert 0 <= gold_share(schedule, later * half, half) <= 0.5 + 1e-6 <= gold_share(schedule, 0, half) + 1e-6


@given(st.floats(0.01, 1e9))
def test_the_steepness_solves_its_equation(half):
    k = steepness(half)
    assert k * math.log(k) == pytest.approx(half, rel=1e-9)


def test_a_schedule_long_past_its_half_life_does_not_overflow():
    assert inverse_sigmoid(1e12, 1.0) == pytest.approx(0, abs=1e-300)
    assert linear(1e12, 1.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("none"), 0.0),
        (Recipe("dynamic", 0.5, passes=2), 0.0),
        (Recipe("constant", 0.5, passes=2), 0.5),
        (Recipe("linear", 0.8, passes=2, half_life=0.5), 0.4),
        (Recipe("exponential", 1.0, passes=2, half_life=0.25), 0.75),
    ],
)
def test_the_share_that_a_recipe_replaces_in_the_middle_of_a_training(recipe, expected):
    assert recipe.share(50, 100) == pytest.approx(expected)


def test_the_mean_share_replaced_is_half_of_strength_times_accuracy():
    """The identity that makes it a curriculum; exact in the mean, for short sequences too."""
    torch.manual_seed(0)
    number, strength = 400_000, 0.5
    for length, accuracy in ((3, 0.4), (10, 0.9), (50, 0.05)):
        counts = dynamic_counts(
            torch.full((number,), accuracy), torch.full((number,), length), *torch.rand(2, number), strength
        )
        expected = strength * accuracy * length / 2
        deviation = math.sqrt((strength * accuracy * length) ** 2 / 12 + 0.25)  # of the draw, and of its rounding
        assert counts.double().mean().item() == pytest.approx(expected, abs=5 * deviation / math.sqrt(number))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.floats(0, 1), st.floats(0.05, 1), st.integers(0, 2**31))
def test_no_more_is_replaced_than_may_be(length, right, draw, strength, seed):
    accuracy = torch.tensor([min(right / length, 1.0)])
    rounding = torch.rand(1, generator=torch.Generator().manual_seed(seed))
    count = dynamic_counts(accuracy, torch.tensor([length]), torch.tensor([min(draw, 1 - 1e-6)]), rounding, strength)
    assert 0 <= count.item() <= length
    if not right:
        assert count.item() == 0


def test_positions_are_drawn_without_replacement_and_evenly():
    torch.manual_seed(1)
    number = 20_000
    replaceable = torch.tensor([False, True, True, True, True, False]).expand(number, 6)
    found = chosen(replaceable, torch.rand(number, 6), torch.full((number,), 3))
    assert (found.sum(1) == 3).all()
    assert not found[:, [0, 5]].any()
    share = found[:, 1:5].double().mean(0)
    assert (share - 0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / number)


def test_candidates_are_drawn_from_the_distribution():
    torch.manual_seed(2)
    probabilities, number = torch.tensor([0.5, 0.0, 0.3, 0.2]), 100_000
    drawn = sampled(probabilities.log().expand(1, number, 4), torch.rand(1, number))
    share = torch.bincount(drawn.flatten(), minlength=4) / number
    assert (share - probabilities).abs().max() < 5 * math.sqrt(0.25 / number)
    assert share[1] == 0
    assert sampled(torch.zeros(1, 1, 4), torch.tensor([[1.0]])).item() == 3  # the sum of shares may round below 1
