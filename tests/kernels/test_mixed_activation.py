import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kernels import ACTIVATIONS, mixed_activation

NAMES = tuple(ACTIVATIONS)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 17), st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
def test_it_is_the_weighted_sum_of_activations(batch, width, names):
    x = torch.randn(batch, len(names), width, dtype=torch.float64)
    weights = torch.rand(len(names), dtype=torch.float64)
    expected = sum(w * ACTIVATIONS[name](x[:, k]) for k, (w, name) in enumerate(zip(weights, names, strict=True)))
    assert torch.allclose(mixed_activation(x, weights, tuple(names)), expected, atol=1e-12)


def test_names_mean_the_usual_functions():
    x = torch.linspace(-4, 4, 33)
    assert torch.equal(ACTIVATIONS["relu"](x), x.clamp(min=0))
    assert torch.allclose(ACTIVATIONS["silu"](x), x * torch.sigmoid(x))
    assert torch.allclose(ACTIVATIONS["hardswish"](x), x * F.relu6(x + 3) / 6)
    assert torch.allclose(ACTIVATIONS["elu"](x), torch.where(x > 0, x, x.exp() - 1), atol=1e-6)


def test_gradients_are_exact():
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: mixed_activation(a, b, NAMES), (x, weights))


@pytest.mark.parametrize(
    ("shape", "weights", "names", "message"),
    [
        ((3, 2, 5), 4, NAMES, "normalised_BKD"),
        ((3, 20), 4, NAMES, "normalised_BKD"),
        ((3, 4, 5), 3, NAMES, "mixing_K"),
        ((3, 1, 5), 1, ("mish",), "'mish'"),
    ],
)
def test_wrong_arguments_are_named(shape, weights, names, message):
    with pytest.raises(ValueError, match=message):
        mixed_activation(torch.randn(shape), torch.rand(weights), names)
