from contextlib import contextmanager

import pytest
import torch
from torch import nn

from naslab.nas.differentiable.bilevel import Bilevel
from naslab.search_spaces import Supernet


class Quadratic(Supernet):
    """Small enough for the exact second-order gradient; weights and alphas interact in both losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.alphas = nn.ParameterDict({"cell": nn.Parameter(torch.randn(2, 3, dtype=torch.float64))})
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.float64))

    def value(self, alpha, weight, batch):
        mixed = alpha.softmax(-1).sum(0) * weight
        return (torch.tanh(batch * mixed) - batch).square().sum() + 0.1 * weight.pow(4).sum()

    def loss(self, batch):
        self.seen += torch.rand(1, dtype=torch.float64)
        return self.value(self.alphas["cell"], self.weight, batch)

    def architecture_loss(self, batch):
        return self.loss(batch)

    def after_step(self, progress):
        pass

    def skipping(self, name):
        return torch.zeros(2, 3, dtype=torch.bool)


TRAIN = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)
HELD_OUT = torch.tensor([-0.5, 0.9, 0.2], dtype=torch.float64)


def zero():
    return torch.zeros((), dtype=torch.float64)


def test_first_order_is_the_plain_gradient():
    net = Quadratic()
    expected = torch.autograd.grad(net.value(net.alphas["cell"], net.weight, HELD_OUT), net.alphas["cell"])[0]
    assert torch.allclose(Bilevel(net, zero).first_order(HELD_OUT)[0], expected)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3])
def test_second_order_is_the_gradient_through_one_weight_step(rate):
    net = Quadratic()
    alpha = net.alphas["cell"]
    step = torch.autograd.grad(net.value(alpha, net.weight, TRAIN), net.weight, create_graph=True)[0]
    exact = torch.autograd.grad(net.value(alpha, net.weight - rate * step, HELD_OUT), alpha)[0]
    ours = Bilevel(net, zero).second_order(HELD_OUT, TRAIN, rate)[0]
    assert torch.allclose(ours, exact, rtol=1e-4, atol=1e-6)
    if rate:
        assert not torch.allclose(Bilevel(net, zero).first_order(HELD_OUT)[0], exact, rtol=1e-3)


def test_second_order_leaves_weights_buffers_and_random_numbers_as_they_were():
    net = Quadratic()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(3)
    Bilevel(net, zero).second_order(HELD_OUT, TRAIN, 0.1)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class Noisy(Quadratic):
    """Its loss draws random numbers, and depends on a buffer that it changes."""

    def loss(self, batch):
        changed = batch + self.seen + torch.rand(3, dtype=torch.float64)
        self.seen += 1
        return self.value(self.alphas["cell"], self.weight, changed)


def test_the_losses_of_a_finite_difference_are_that_of_the_step():
    """With its random numbers and buffers: what is differentiated twice is one function of weights and alphas."""
    net, rate = Noisy(), 0.3
    alpha = net.alphas["cell"]
    torch.manual_seed(3)
    train, held_out = (batch + torch.rand(3, dtype=torch.float64) for batch in (TRAIN, HELD_OUT + 1))
    step = torch.autograd.grad(net.value(alpha, net.weight, train), net.weight, create_graph=True)[0]
    exact = torch.autograd.grad(net.value(alpha, net.weight - rate * step, held_out), alpha)[0]
    torch.manual_seed(3)
    ours = Bilevel(net, zero).second_order(HELD_OUT, TRAIN, rate)[0]
    assert torch.allclose(ours, exact, rtol=1e-4, atol=1e-6)
    assert net.seen == 0


class Replacing(Quadratic):
    """Makes a buffer when it is first called, and puts a larger one in the place of another, as caches do."""

    def loss(self, batch):
        if not hasattr(self, "made"):
            self.register_buffer("made", torch.ones(2))
        self.seen = torch.cat([self.seen, self.seen])
        return self.value(self.alphas["cell"], self.weight, batch)


def test_buffers_that_a_loss_replaces_come_back():
    net = Replacing()
    Bilevel(net, zero).second_order(HELD_OUT, TRAIN, 0.1)
    assert torch.equal(net.seen, torch.zeros(1, dtype=torch.float64))


def test_a_policy_holds_for_all_forwards_but_those_of_the_finite_difference():
    """Two sides that differ by less than bfloat16 tells apart would differ by nothing, or by one rounding."""
    net, seen, inside = Quadratic(), [], []

    @contextmanager
    def policy():
        inside.append(True)
        yield
        inside.pop()

    net.value = lambda *arguments: (seen.append(bool(inside)), Quadratic.value(net, *arguments))[1]
    Bilevel(net, zero, policy).second_order(HELD_OUT, TRAIN, 0.1)
    assert seen == [True, True, False, False]


def test_penalties_reach_the_gradient():
    net = Quadratic()
    alone = Bilevel(net, zero).second_order(HELD_OUT, TRAIN, 0.1)[0]
    with_penalty = Bilevel(net, lambda: 2 * net.alphas["cell"].sum()).second_order(HELD_OUT, TRAIN, 0.1)[0]
    assert torch.allclose(with_penalty - alone, torch.full((2, 3), 2.0, dtype=torch.float64))


class Turned(torch.autograd.Function):
    """The identity, whose gradient lies transposed in memory, as that of some convolutions does."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.t().contiguous().t()


class Square(Quadratic):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def loss(self, batch):
        return (Turned.apply(self.weight) * batch).sum()


def test_gradients_lie_in_memory_as_their_weights():
    """Fused optimisers walk both in memory order, whatever the strides."""
    supernet, batch = Square(), torch.arange(9.0).view(3, 3)
    _, gradients = Bilevel(supernet, lambda: torch.zeros(())).weights(batch)
    optimiser = torch.optim.SGD(supernet.weights(), lr=1.0, fused=True)
    before = supernet.weight.detach().clone()
    for weight, gradient in zip(supernet.weights(), gradients, strict=True):
        weight.grad = gradient
    optimiser.step()
    torch.testing.assert_close(supernet.weight.detach(), before - batch)
