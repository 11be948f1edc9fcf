"""Searches by gradient whose steps are CUDA graphs, on a CPU that repeats operations as a graph would."""

import sys
from pathlib import Path

import pytest
import torch

from naslab.nas.arms import Differentiable
from naslab.nas.differentiable.search import search
from naslab.search_spaces import find_space
from naslab.search_spaces.common.training.policy import Policy
from naslab.search_spaces.find import make_task

sys.path.insert(0, str(Path(__file__).parents[1] / "search_spaces"))

from recorded_on_a_cpu import on_a_cpu

SEARCH = sys.modules[search.__module__]
IMAGES = {"dataset": {"train": 480, "validation": 60, "test": 60}, "batch_size": 40, "epochs": 1}
GRADIENTS = {"first": 2, "second": 3}
"""Functions of a batch that a step of each order derives."""


def searched(framework, **options):
    space = find_space("nasiam", "tiny", {"framework": framework})
    task = make_task(space, IMAGES, torch.device("cpu"))
    return list(search(space, task, Differentiable(engine="differentiable", name="a", epochs=2, **options), 0))


@pytest.mark.parametrize("order", GRADIENTS)
@pytest.mark.parametrize(
    ("framework", "options"),
    [
        ("simclr", {"entropy_weight": 1.0, "skip_weight": 0.5}),
        ("mocov2", {"relaxation": "sigmoid", "zero_one_weight": 1.0}),
        ("simsiam", {"relaxation": "gumbel", "temperature": [5.0, 0.5]}),
    ],
)
def test_a_recorded_search_is_the_eager_one(framework, options, order, monkeypatch):
    """Temperature and penalties change from step to step, where a recording sees them."""
    eager = searched(framework, order=order, **options)
    recorded = on_a_cpu(monkeypatch)
    monkeypatch.setattr(SEARCH, "decide", lambda *args: Policy(cuda_graphs=True))
    assert searched(framework, order=order, **options) == eager
    assert recorded.count("step") == GRADIENTS[order]


def test_a_search_compiles_nothing_whatever_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(SEARCH, "decide", lambda wanted, training: (asked.append(wanted), Policy())[1])
    monkeypatch.setitem(IMAGES, "policy", {"compile": "on"})
    searched("simsiam")
    assert [one.asked.compile for one in asked] == ["off"]
    assert not asked[0].asked.plain.compile
