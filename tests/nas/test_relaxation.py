import math

import pytest
import torch
from torch import nn

from naslab.nas.arms import Differentiable
from naslab.nas.differentiable.regularisation import penalty
from naslab.nas.differentiable.relaxation import Gumbel, anneal, discrete, entropy, make_relaxation, shares


def arm(**options):
    return Differentiable(engine="differentiable", name="d", epochs=2, **options)


class Fake:
    """What a penalty asks of a supernet."""

    def __init__(self, alpha):
        self.alphas = nn.ParameterDict({"cell": nn.Parameter(alpha)})

    def skipping(self, name):
        return torch.tensor([[True, True, False], [False, False, False]])


@pytest.mark.parametrize("name", ["softmax", "gumbel"])
def test_layers_sum_to_one(name):
    weights = make_relaxation(arm(relaxation=name))(torch.randn(5, 7))
    assert torch.allclose(weights.sum(-1), torch.ones(5))
    assert (weights >= 0).all()


def test_sigmoid_weighs_each_candidate_by_itself():
    alpha = torch.tensor([[0.0, 2.0, -2.0]])
    expected = torch.tensor([[0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]])
    assert torch.allclose(make_relaxation(arm(relaxation="sigmoid"))(alpha), expected)


def test_hard_gumbel_samples_one_hot_with_a_gradient_and_the_right_frequencies():
    torch.manual_seed(0)
    alpha = torch.log(torch.tensor([[0.7, 0.2, 0.1]])).repeat(4000, 1).requires_grad_()
    sample = Gumbel(hard=True, temperature=1.0)(alpha)
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert sample.mean(0).tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    (sample * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert alpha.grad.abs().sum() > 0


def test_the_temperature_falls_geometrically():
    options = arm(relaxation="gumbel", temperature=(10.0, 0.1))
    relaxation = make_relaxation(options)
    seen = []
    for progress in (0.0, 0.5, 1.0):
        anneal(relaxation, options, progress)
        seen.append(float(relaxation.temperature))
    assert seen == pytest.approx([10.0, 1.0, 0.1])


def test_discrete_is_the_argmax():
    assert torch.equal(discrete(torch.tensor([[0.1, 3.0, 0.2]])), torch.tensor([[0.0, 1.0, 0.0]]))


def test_entropy_is_one_when_undecided_and_zero_when_decided():
    values = entropy(torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]]))
    assert values.tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("relaxation", ["softmax", "sigmoid", "gumbel"])
def test_shares_sum_to_one_and_are_without_noise(relaxation):
    alpha, options = torch.randn(3, 7), arm(relaxation=relaxation)
    assert torch.allclose(shares(alpha, options).sum(-1), torch.ones(3))
    assert torch.equal(shares(alpha, options), shares(alpha, options))


def test_penalties_rise_fade_and_push_as_they_say():
    net = Fake(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))

    def gradient(progress, **options):
        value = penalty(net, arm(**options), progress)
        return torch.autograd.grad(value, net.alphas["cell"])[0] if value.requires_grad else None

    assert gradient(0.5) is None
    assert gradient(0.0, entropy_weight=1.0).abs().max() == 0
    sharpening = gradient(1.0, entropy_weight=1.0)
    assert sharpening[0, 0] < 0 < sharpening[0, 1], "descending must raise the leader and lower the rest"
    fading = gradient(0.0, skip_weight=1.0)
    assert fading[0, 2] < 0, "descending must raise the candidate with parameters"
    assert fading[1].abs().max() == 0
    assert gradient(1.0, skip_weight=1.0).abs().max() == 0
    outward = gradient(0.3, relaxation="sigmoid", zero_one_weight=10.0)
    assert outward[0, 0] < 0
    assert outward[0, 1] == 0
