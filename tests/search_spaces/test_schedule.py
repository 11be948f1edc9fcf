"""The learning rate's one schedule, and the groups of parameters that it scales."""

import itertools

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from naslab.search_spaces.common.training import LayerDecay, adamw, learning_rate_share, scaled_rate, set_learning_rate


def test_it_is_transformers_schedule():
    optimiser = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimiser, num_warmup_steps=5, num_training_steps=40)
    for step in range(40):
        assert learning_rate_share(step / 40, 5 / 40) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_it_rises_from_nothing_and_falls_to_the_floor(warmup, floor):
    shares = [learning_rate_share(place / 1000, warmup, floor) for place in range(1001)]
    top = round(1000 * warmup)
    assert shares[top] == 1
    assert shares[0] == (1 if warmup == 0 else 0)
    assert shares[-1] == pytest.approx(floor, abs=1e-12)
    assert all(a < b for a, b in itertools.pairwise(shares[: top + 1]))
    assert all(a > b for a, b in itertools.pairwise(shares[top:]))


def test_every_group_has_its_share_of_its_own_rate():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "base_lr": rate} for rate in (2.0, 6.0)]
    optimiser = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimiser, 0.05, 0.1)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([1.0, 3.0])


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.frozen = (nn.Linear(2, 2) for _ in range(3))
        self.frozen.requires_grad_(False)


def settings(optimiser, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g["base_lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}


def test_matrices_decay_and_what_is_frozen_is_left_out():
    model = Layers()
    optimiser = adamw(model.named_parameters(), 3.0, 0.1)
    assert settings(optimiser, model) == {
        f"{layer}.{kind}": (3.0, 0.1 if kind == "weight" else 0.0)
        for layer in ("first", "second")
        for kind in ("weight", "bias")
    }
    assert len(optimiser.param_groups) == 2


def test_the_rate_falls_with_each_layer_and_a_layer_of_none_is_left_out():
    model = Layers()
    number = {"first.weight": 0, "first.bias": 1, "second.weight": 3, "second.bias": None}
    optimiser = adamw(model.named_parameters(), 8.0, 0.1, layers=LayerDecay(0.5, 3, number.get))
    rates = {name: rate for name, (rate, _) in settings(optimiser, model).items()}
    assert rates == {"first.weight": 1.0, "first.bias": 2.0, "second.weight": 8.0}


def test_a_rate_is_stated_for_256():
    assert scaled_rate(1e-3, 64) == pytest.approx(2.5e-4)
