import itertools

import pytest
from pydantic import ValidationError

from naslab.errors import InputError
from naslab.nas.arms import Grid
from naslab.nas.grid import describe_point, grid_points
from naslab.search_spaces import Categorical, Float, Integer, Options, SearchSpace, When, find_space


class Masking(SearchSpace):
    """A kind of mask with a conditional block size; a ratio that leaves no token is refused."""

    name = "masking"
    Options = Options

    @property
    def parameters(self):
        return (
            Categorical("kind", ("random", "block")),
            Integer("block", 1, 8, when=When("kind", ("block",))),
            Float("ratio", 0.1, 1.0),
            Integer("depth", 1, 12),
        )

    @property
    def reference(self):
        return self.configuration({"kind": "random", "ratio": 0.75, "depth": 8})

    def canonicalise(self, values):
        if values["ratio"] == 1.0:
            raise InputError("ratio: 1.0 leaves no token; use less")
        return values

    def build(self, configuration):
        raise NotImplementedError


SPACE = Masking(Options())


def grid(vary, base=None):
    return Grid(engine="grid", name="g", vary=vary, base=base or {})


def test_points_are_the_product_around_the_reference():
    arm = grid({"ratio": [0.5, 0.75], "depth": [2, 8, 12]})
    points = grid_points(arm, SPACE)
    wanted = [{"kind": "random", "ratio": r, "depth": d} for r, d in itertools.product((0.5, 0.75), (2, 8, 12))]
    assert [point.as_dict() for point in points] == wanted
    assert SPACE.reference in points
    assert describe_point(arm, points[0]) == "ratio=0.5, depth=2"


def test_base_replaces_the_reference_and_what_does_not_apply_is_left_out():
    arm = grid({"kind": ["random", "block"]}, {"block": 4, "ratio": 0.5})
    assert [point.as_dict() for point in grid_points(arm, SPACE)] == [
        {"kind": "random", "ratio": 0.5, "depth": 8},
        {"kind": "block", "block": 4, "ratio": 0.5, "depth": 8},
    ]


def test_points_that_are_one_another_are_one():
    assert len(grid_points(grid({"depth": [8, 8.0, 2]}), SPACE)) == 2


@pytest.mark.parametrize(
    ("vary", "base", "message"),
    [
        ({"ratoi": [0.5]}, {}, "arm g: vary.ratoi: unknown parameter of space masking; it has kind, block, ratio"),
        ({"ratio": [0.5]}, {"deep": 2}, "arm g: base.deep: unknown parameter"),
        ({"ratio": [0.5]}, {"ratio": 0.2}, "arm g: base.ratio: is varied, too"),
        ({"ratio": [0.5, 7]}, {}, "arm g: point ratio=7: ratio: 7 is not allowed; use a number from 0.1 to 1"),
        ({"ratio": [0.5, 1.0]}, {}, "arm g: point ratio=1.0: ratio: 1.0 leaves no token"),
        ({"block": [2]}, {}, "arm g: point block=2: block: applies only with kind = block"),
        ({"kind": ["block"]}, {}, "arm g: point kind=block: block: missing; use an integer from 1 to 8"),
        ({"ratio": [0.5]}, {"block": 2}, "arm g: base.block: applies to no point"),
        ({"ratio": [0.5]}, {"depth": 99}, "depth: 99 is not allowed"),
        ({"ratio": [0.5] * 200, "depth": [1] * 200}, {}, "40000 points; at most 10000"),
    ],
)
def test_what_the_space_refuses_is_one_line_with_the_point(vary, base, message):
    with pytest.raises(InputError) as caught:
        grid_points(grid(vary, base), SPACE)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vary", [{}, {"ratio": []}, {"ratio": 0.5}, ["ratio"]])
def test_a_grid_varies_something(vary):
    with pytest.raises(ValidationError):
        grid(vary)


def test_three_spellings_of_one_network_are_one_point():
    """Where an identity stands among layers of one width makes no network."""
    heads = [["relu", "identity", "silu"], ["identity", "relu", "silu"], ["relu", "silu", "identity"]]
    vary = {"projector": [[*three, "elu", "elu", "avgpool"] for three in heads]}
    base = {"head": "cell", "predictor": ["relu", "elu", "relu", "relu"]}
    arm = Grid(engine="grid", name="heads", vary=vary, base=base)
    (point,) = grid_points(arm, find_space("nasiam", "tiny"))
    assert point.chain("projector") == ("relu", "silu", "elu", "elu", "avgpool", "identity")
