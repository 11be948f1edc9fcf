"""The language systems in bfloat16: every fact is a number, and the loss is that of float32 but for rounding."""

import math

import pytest
import torch
from test_contract import SPACES

from naslab.search_spaces import find_space, make_task, seed_everything

LANGUAGE = [name for name in SPACES if name.split(":")[0] in ("pmlm", "whole_word", "lmbff", "dysi")]


def trained(name, precision):
    """Facts of the first rung and the scores after it, of the reference without dropout's draws."""
    (space_name, _, preset), (task, options) = name.split()[0].partition(":"), SPACES[name]
    space = find_space(space_name, preset, {**options, "dropout": 0.0})
    policy = {"precision": precision, "compile": "off"}
    task = make_task(space, {**task, "epochs": 1, "policy": policy}, torch.device("cpu"))
    seed_everything(0)
    model = space.build(space.reference)
    (rung,) = task.train(model, 0)
    return rung.facts, task.evaluate(model, "validation", full=False), task


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_training_in_bfloat16(name):
    whole, _, _ = trained(name, "float32")
    facts, scores, task = trained(name, "bfloat16")
    numbers = [value for value in {**facts, **scores}.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert 0 <= scores[task.metric] <= 100
    # A bfloat16 has 8 bits; errors of the few operations in a row add up to some more (see test_training_policy).
    assert facts["loss"] == pytest.approx(whole["loss"], rel=2**-6)
