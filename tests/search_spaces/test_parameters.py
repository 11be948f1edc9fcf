from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from naslab.errors import InputError
from naslab.search_spaces import (
    Categorical,
    Chain,
    Configuration,
    Float,
    Integer,
    Options,
    Unless,
    When,
    derive_seed,
    explain,
)
from naslab.search_spaces.options import RECORDED
from naslab.search_spaces.parameters import check_conditions, check_parameters

PARAMETERS = (
    Categorical("kind", ("random", "block", 3, True)),
    Integer("depth", 2, 11, step=3),
    Integer("width", 8, 4096, log=True),
    Float("ratio", 0.1, 0.95),
    Float("rate", 1e-5, 1e-1, log=True),
    Chain("cell", ("relu", "silu"), 4),
)


@given(st.integers(0, 2**31), st.sampled_from(PARAMETERS))
def test_samples_are_allowed(seed, parameter):
    value = parameter.sample(np.random.default_rng(seed))
    assert parameter.check(value) == value


def test_log_ranges_are_sampled_evenly_in_the_exponent():
    rng = np.random.default_rng(0)
    values = [Float("rate", 1e-4, 1.0, log=True).sample(rng) for _ in range(2000)]
    assert np.mean(np.array(values) < 1e-2) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (PARAMETERS[0], "grid"),
        (PARAMETERS[0], 1),
        (PARAMETERS[1], 3),
        (PARAMETERS[1], 14),
        (PARAMETERS[1], 2.5),
        (PARAMETERS[1], True),
        (PARAMETERS[3], 0.96),
        (PARAMETERS[3], "0.5"),
        (PARAMETERS[3], float("nan")),
        (PARAMETERS[1], float("nan")),
        (PARAMETERS[1], float("inf")),
        (PARAMETERS[5], "relu"),
        (PARAMETERS[5], ["relu"] * 3),
        (PARAMETERS[5], ["relu", "silu", "mish", "relu"]),
        (PARAMETERS[5], None),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(parameter, value):
    with pytest.raises(InputError, match=rf"^{parameter.name}.*(use|allowed)"):
        parameter.check(value)


def test_values_get_their_canonical_type():
    assert repr(PARAMETERS[1].check(5.0)) == "5"
    assert repr(Float("x", 0, 2).check(1)) == "1.0"
    assert Chain("cell", ("a", "b"), 2).check(["a", "b"]) == ("a", "b")


def test_conditions_look_at_what_was_chosen():
    condition = When("head", ("cell", "both"))
    assert condition.holds({"head": "cell"})
    assert not condition.holds({"head": "published"})
    assert not condition.holds({})
    opposite = Unless("head", ("cell", "both"))
    assert all(opposite.holds(c) != condition.holds(c) for c in ({"head": "cell"}, {"head": "published"}, {}))


class Loss(Options):
    kind: Literal["plain", "queued"] = "plain"
    queue_size: Annotated[int, When("kind", ("queued",))] = 4
    frames: int = 1
    tubelet: Annotated[int, Unless("frames", (1,))] = 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"queue_size": 4}, "task.queue_size: applies only with kind = queued"),
        ({"kind": "plain", "queue_size": 8}, "task.queue_size: applies only with kind = queued"),
        ({"tubelet": 2}, "task.tubelet: applies only with frames other than 1"),
    ],
)
def test_an_option_without_effect_is_refused(given, words):
    with pytest.raises(ValidationError) as caught:
        Loss.model_validate(given)
    assert explain(caught.value, "task") == words
    assert Loss.model_validate(given, context=RECORDED).model_dump().keys() == {"kind", "frames"}


def test_an_option_that_applies_is_written_down_and_read_again():
    for values in ({}, {"kind": "queued"}, {"kind": "queued", "queue_size": 9, "frames": 2, "tubelet": 1}):
        options = Loss.model_validate(values)
        assert {*values} <= {*options.model_dump()}
        assert Loss.model_validate(options.model_dump(mode="json")) == options


@dataclass(frozen=True)
class Chosen:
    kind: Literal["random", "block"]
    depth: int
    ratio: float
    cell: tuple[str, ...] = ()


def test_a_configuration_becomes_typed_values():
    values = {"kind": "block", "depth": 3, "ratio": 0.5}
    assert Configuration("x", tuple(values.items())).into(Chosen) == Chosen("block", 3, 0.5)
    assert Configuration("x", (*values.items(), ("cell", ("a", "b")))).into(Chosen).cell == ("a", "b")


@pytest.mark.parametrize("change", [{"kind": "grid"}, {"depth": True}, {"depth": 0.5}, {"ratio": "1"}, {"rate": 1.0}])
def test_a_dataclass_that_does_not_describe_the_space_is_refused(change):
    values = {"kind": "block", "depth": 3, "ratio": 0.5} | change
    with pytest.raises(TypeError, match="Chosen"):
        Configuration("x", tuple(values.items())).into(Chosen)
    with pytest.raises(TypeError, match="missing"):
        Configuration("x", (("kind", "block"),)).into(Chosen)


def test_a_proposed_choice_must_be_a_choice():
    with pytest.raises(ValueError, match="proposed"):
        Categorical("head", ("a", "b"), proposed=("c",))


def test_derived_seeds_depend_on_every_part():
    seeds = {derive_seed(a, b, c) for a in range(5) for b in ("x", "y") for c in range(5)}
    assert len(seeds) == 50
    assert all(0 <= s < 2**31 for s in seeds)
    assert derive_seed(1, "x", 2) == derive_seed(1, "x", 2)


SWITCH = Categorical("kind", ("a", "b"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([Float("rate", 0, 1, log=True)], "rate: a log scale from 0"),
        ([Integer("width", 0, 8, log=True)], "width: a log scale from 0"),
        ([Integer("width", 8, 64, step=8, log=True)], "width: steps of 8 on a log scale"),
        ([Integer("width", 1, 8, step=0)], "width: steps of 0"),
        ([Integer("width", 8, 1)], "width: no range from 8 to 1"),
        ([Float("rate", 0, float("nan"))], "rate: no range from 0 to nan"),
        ([Categorical("kind", ())], "kind: no choice"),
        ([Categorical("kind", ("a", "b", "a"))], "kind: the choice 'a' stands twice"),
        ([Categorical("kind", (0, False))], "kind: the choice False stands twice"),
        ([Chain("cell", ("relu",), 0)], "cell: a length of 0"),
        ([SWITCH, SWITCH], "kind: two parameters have this name"),
        (
            [Float("rate", 0, 1, when=When("kind", ("a",))), SWITCH],
            "rate: applies only with kind = a, but no parameter",
        ),
    ],
)
def test_parameters_that_cannot_be_drawn_are_refused(parameters, message):
    with pytest.raises(InputError) as caught:
        check_parameters(parameters)
    assert message in str(caught.value)


def test_a_condition_on_a_value_that_never_comes_is_refused():
    def conditions(*values):
        return check_conditions([SWITCH, Float("rate", 0, 1, when=When("kind", values))])

    conditions("c", "b")
    with pytest.raises(InputError, match="rate: applies only with kind = c, but kind is one of a, b"):
        conditions("c")
