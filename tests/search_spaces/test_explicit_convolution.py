"""The gradient of a convolution's weights by one product is PyTorch's, and stands in for it where that is slow."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from naslab.efficiency import count
from naslab.search_spaces.common.training.explicit import ExplicitForms
from naslab.search_spaces.common.training.explicit_convolution import (
    LARGEST,
    LEAST_CHANNELS,
    weight_gradient,
)
from naslab.search_spaces.common.training.policy import Policy

CPU = torch.device("cpu")
LAYOUTS = (torch.contiguous_format, torch.channels_last)
OURS = "_Convolution"


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    samples=st.integers(0, 3),
    channels=pairs,
    side=st.tuples(st.integers(3, 8), st.integers(3, 8)),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    layout=st.sampled_from(LAYOUTS),
)
def test_it_is_pytorchs_gradient(samples, channels, side, kernel, stride, padding, layout):
    into, out = channels
    x = drawn(samples, into, *side).to(memory_format=layout)
    weight = drawn(out, into, *kernel, seed=1).requires_grad_()
    result = F.conv2d(x, weight, None, stride, padding)
    g = drawn(*result.shape, seed=2).to(memory_format=layout)
    (expected,) = torch.autograd.grad(result, weight, g)
    torch.testing.assert_close(weight_gradient(g, x, weight.shape, stride, padding), expected, rtol=1e-10, atol=1e-10)


def gradients(x, layer, context):
    """Result and gradients (input, weights, bias) of a layer within a context."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), context:
        result = layer(x)
    g = drawn(*result.shape, seed=3).to(result.dtype)
    return result, *torch.autograd.grad(result, (x, *layer.parameters()), g)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_within_autocast_only_the_weights_gradient_is_computed_otherwise(layout, bias):
    layer = nn.Conv2d(LEAST_CHANNELS, 8, 3, 2, 1, bias=bias).to(memory_format=layout)
    x = drawn(4, LEAST_CHANNELS, 7, 7).float().to(memory_format=layout)
    ours, theirs = gradients(x, layer, ExplicitForms()), gradients(x, layer, torch.enable_grad())
    assert [value.dtype for value in ours] == [value.dtype for value in theirs]
    for place, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if place != 2:
            assert torch.equal(our, their)
    # Sums of products of bfloat16 numbers in float32, in whatever order, rounded once to bfloat16.
    weight = layer.weight.detach().double()
    given = x.bfloat16().double(), drawn(*ours[0].shape, seed=3).bfloat16().double()
    exact, size = (weights_gradient(layer, weight, *values) for values in (given, [value.abs() for value in given]))
    terms = 4 * 4 * 4
    assert ((ours[2].double() - exact).abs() <= 2.0**-8 * exact.abs() + terms * 2.0**-23 * size).all()


def weights_gradient(layer, weight, x, g):
    """PyTorch's."""
    weight = weight.requires_grad_()
    return torch.autograd.grad(F.conv2d(x, weight, None, layer.stride, layer.padding), weight, g)[0]


def asked(policy, layer=None, side=4, **more):
    """What a step under the policy's forward asks PyTorch for: operations by name."""
    layer = layer or nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1)
    x = torch.randn(2, layer.in_channels, side, side)
    with torch.profiler.profile() as profile, policy.forward(CPU):
        layer(x, **more)
    return {event.key for event in profile.key_averages()}


def test_small_maps_in_bfloat16_are_ours_on_a_cpu():
    assert OURS in asked(Policy("bfloat16"))
    assert OURS in asked(Policy("bfloat16", "channels_last"))


@pytest.mark.parametrize("policy", [Policy(), Policy("bfloat16", recompute=True)], ids=str)
def test_elsewhere_they_are_pytorchs(policy):
    assert OURS not in asked(policy)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(LEAST_CHANNELS - 1, 4, 3, padding=1),
        nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1, dilation=2),
        nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1, groups=2),
        nn.Conv2d(LEAST_CHANNELS, 4, 3, padding="same"),
        nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1).requires_grad_(False),
        nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1).double(),
    ],
    ids=["few channels", "dilation", "groups", "padding by name", "frozen", "float64"],
)
def test_others_are_pytorchs(layer):
    context = Policy("bfloat16")
    x = torch.randn(2, layer.in_channels, 4, 4, dtype=layer.weight.dtype)
    with context.forward(CPU), torch.profiler.profile() as profile:
        layer(x)
    assert OURS not in {event.key for event in profile.key_averages()}


def test_large_maps_are_pytorchs():
    side = int(LARGEST**0.5)
    assert OURS in asked(Policy("bfloat16"), side=side)
    assert OURS not in asked(Policy("bfloat16"), side=side + 1)


def test_what_is_counted_is_what_runs():
    """A counter looks at convolutions through entries of its own."""
    layer, x = nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1), torch.randn(2, LEAST_CHANNELS, 4, 4)

    def step():
        with Policy("bfloat16").forward(CPU):
            result = layer(x)
        result.float().sum().backward()

    found = count(step)
    assert [o.work.contraction for o in found.operations if o.name == "mm"] == [2 * 32 * 4 * LEAST_CHANNELS * 9]


def test_a_forward_in_float32_within_is_left_alone():
    layer = nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1)
    with Policy("bfloat16").forward(CPU), torch.autocast("cpu", enabled=False):
        assert layer(torch.randn(2, LEAST_CHANNELS, 4, 4)).dtype == torch.float32


def test_numbers_of_other_kinds_are_read_by_pytorch():
    x, layer = torch.randn(2, LEAST_CHANNELS, 4, 4), nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1)
    with Policy("bfloat16").forward(CPU):
        for one in (np.int64(1), torch.tensor(1)):
            assert torch.equal(F.conv2d(x, layer.weight, layer.bias, one, one), layer(x))


@pytest.mark.parametrize("numbers", [{"stride": (2,)}, {"padding": [1]}, {"stride": [2], "padding": (1,)}], ids=str)
def test_one_number_in_a_sequence_is_for_both_sides(numbers):
    x, weight = torch.randn(2, LEAST_CHANNELS, 6, 6), torch.randn(4, LEAST_CHANNELS, 3, 3, requires_grad=True)
    with Policy("bfloat16").forward(CPU):
        ours = F.conv2d(x, weight, **numbers)
        theirs = F.conv2d(x, weight.detach(), **{name: 2 * tuple(value) for name, value in numbers.items()})
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [((4, LEAST_CHANNELS, 3), {}), ((4, LEAST_CHANNELS, 3, 3), {"stride": 0}),
     ((4, LEAST_CHANNELS, 3, 3), {"stride": (1, 2, 3)}), ((4, LEAST_CHANNELS, 3, 3), {"padding": -1}),
     ((4, LEAST_CHANNELS, 3, 3), {"bias": torch.zeros(4, dtype=torch.float64)})],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_fails_as_pytorch_says(shape, numbers):
    x, weight = torch.randn(2, LEAST_CHANNELS, 6, 6), torch.randn(shape, requires_grad=True)
    said = []
    for context in (torch.autocast("cpu", torch.bfloat16), Policy("bfloat16").forward(CPU)):
        with pytest.raises(RuntimeError) as error, context:
            F.conv2d(x, weight, **numbers)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_an_empty_batch_gives_its_weights_a_gradient_of_zero():
    layer = nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1)
    with Policy("bfloat16").forward(CPU):
        result = layer(torch.randn(0, LEAST_CHANNELS, 4, 4))
    result.float().sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


def test_gradients_of_single_samples_are_pytorchs():
    """What `torch.func` transforms has no functions of autograd's own."""
    layer, x = nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1), torch.randn(3, LEAST_CHANNELS, 4, 4)

    def total(weights, image):
        return torch.func.functional_call(layer, weights, image[None]).float().sum()

    weights = {name: p.detach() for name, p in layer.named_parameters()}
    with Policy("bfloat16").forward(CPU):
        each = torch.func.vmap(torch.func.grad(total), (None, 0))(weights, x)
        whole = torch.func.grad(lambda given: layer_sum(layer, given, x))(weights)
    torch.testing.assert_close(each["weight"].sum(0), whole["weight"], rtol=2**-6, atol=2**-4)


def test_forward_mode_gradients_are_pytorchs():
    layer, x = nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1, bias=False), torch.randn(2, LEAST_CHANNELS, 4, 4)
    with Policy("bfloat16").forward(CPU), forward_ad.dual_level():
        result = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x)))
    assert torch.equal(result.primal, result.tangent)  # the layer is linear


def layer_sum(layer, weights, x):
    return torch.func.functional_call(layer, weights, x).float().sum()


def test_a_second_derivative_is_refused():
    layer, x = nn.Conv2d(LEAST_CHANNELS, 4, 3, padding=1), torch.randn(2, LEAST_CHANNELS, 4, 4, requires_grad=True)
    with Policy("bfloat16").forward(CPU):
        value = layer(x).float().square().sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.square().sum().backward()


def test_a_map_that_the_kernel_does_not_fit_fails_as_pytorch_says():
    layer = nn.Conv2d(LEAST_CHANNELS, 4, 5)
    with pytest.raises(RuntimeError, match="Kernel size"), Policy("bfloat16").forward(CPU):
        layer(torch.randn(2, LEAST_CHANNELS, 4, 4))
