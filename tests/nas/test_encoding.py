"""Configurations as flat decisions and back, each kind of parameter by hand."""

from __future__ import annotations

import pytest

from naslab.nas.arms import Sampled
from naslab.nas.encoding import distributions, flatten, suggest_values, unflatten
from naslab.nas.history import Ask, Observation
from naslab.nas.numeric import grid
from naslab.search_spaces import Categorical, Chain, Integer, Options, SearchSpace, When


class Mixed(SearchSpace):
    name = "mixed"
    Options = Options

    @property
    def parameters(self):
        return (
            Categorical("head", ("cell", "plain")),
            Chain("cell", ("x", "yz"), 2, when=When("head", ("cell",))),
            Integer("depth", 1, 9, step=4),
            Integer("width", 8, 512, log=True),
        )

    @property
    def reference(self):
        return self.configuration({"head": "plain", "depth": 5, "width": 8})

    def build(self, configuration):
        raise NotImplementedError


SPACE = Mixed(Options())
CELL = {"head": "cell", "cell[0]": "x", "cell[1]": "yz", "depth": 5, "width": 16}


def test_a_layer_of_a_chain_is_a_decision_and_what_does_not_apply_is_none():
    cell = SPACE.configuration({"head": "cell", "cell": ["x", "yz"], "depth": 5, "width": 16})
    assert flatten(SPACE, cell)[0] == CELL
    assert unflatten(SPACE, CELL) == cell
    assert flatten(SPACE, SPACE.reference)[0] == {"head": "plain", "depth": 5, "width": 8}
    assert unflatten(SPACE, flatten(SPACE, SPACE.reference)[0]) == SPACE.reference
    assert suggest_values(SPACE, lambda name, _: CELL[name]) == {
        "head": "cell", "cell": ("x", "yz"), "depth": 5, "width": 16
    }  # fmt: skip
    assert "cell" not in suggest_values(SPACE, lambda name, _: {**CELL, "head": "plain"}[name])


def test_whole_numbers_keep_their_step_and_on_a_log_scale_have_one():
    (depth,), (width,) = (distributions(parameter).values() for parameter in SPACE.parameters[2:])
    assert (depth.low, depth.high, depth.step, depth.log) == (1, 9, 4, False)
    assert (width.low, width.high, width.step, width.log) == (8, 512, 1, True)


@pytest.mark.filterwarnings("error")
def test_steps_need_not_end_at_the_upper_bound():
    (decision,) = distributions(Integer("width", 8, 33, step=8)).values()
    assert (decision.low, decision.high) == (8, 32)


def test_of_a_lattice_what_was_not_tried_is_next():
    arm = Sampled(engine="optuna", name="arm", sampler="grid", trials=40, levels=2)
    found = []
    for number in range(20):  # 4 cells and no cell, two depths, two widths
        found.append(grid(Ask(arm, SPACE, [Observation(one, 1.0) for one in found], [], number, number, 7)))
    assert len(set(found)) == 20
