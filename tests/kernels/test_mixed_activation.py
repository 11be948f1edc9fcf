import pytest
import torch
from torch import nn
from torch.nn import functional as F

from naslab.efficiency import count
from naslab.kernels import ACTIVATIONS, mixed_activation
from naslab.kernels._dispatch import switched

NAMES = tuple(ACTIVATIONS)


def inputs(batch, width, names=NAMES):
    k = len(names)
    return torch.randn(batch, k, width), torch.rand(k), torch.rand(k, width), torch.randn(k, width)


@pytest.mark.parametrize("way", ["fused", "reference"])
def test_it_is_the_weighted_sum_of_normalised_and_activated_candidates(way):
    x, w, a, b = inputs(9, 6)
    expected = 0
    for k, name in enumerate(NAMES):
        norm = nn.BatchNorm1d(6)
        norm.load_state_dict({"weight": a[k], "bias": b[k]}, strict=False)
        expected = expected + w[k] * ACTIVATIONS[name](norm(x[:, k]))
    with switched(way):
        mixed = mixed_activation(x, w, a, b, NAMES)
    assert torch.allclose(mixed.output, expected, atol=1e-5)
    assert torch.allclose(mixed.mean_KD, x.mean(0), atol=1e-6)
    assert torch.allclose(mixed.variance_KD, x.var(0, correction=0), atol=1e-5)


def test_names_mean_the_usual_functions():
    x = torch.linspace(-4, 4, 33)
    assert torch.equal(ACTIVATIONS["relu"](x), x.clamp(min=0))
    assert torch.allclose(ACTIVATIONS["silu"](x), x * torch.sigmoid(x))
    assert torch.allclose(ACTIVATIONS["hardswish"](x), x * F.relu6(x + 3) / 6)
    assert torch.allclose(ACTIVATIONS["elu"](x), torch.where(x > 0, x, x.exp() - 1), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_far_from_zero(name):
    x = torch.tensor([-1e4, -100.0, -3.0, 0.0, 3.0, 100.0, 1e4])[:, None, None].expand(7, 1, 2).contiguous()
    unit = (torch.ones(1), torch.ones(1, 2), torch.zeros(1, 2), (name,), (torch.zeros(1, 2), torch.ones(1, 2)))
    with switched("fused"):
        assert torch.allclose(mixed_activation(x, *unit).output, ACTIVATIONS[name](x[:, 0]), atol=1e-4)


def test_a_slice_of_the_candidates_need_not_be_copied():
    x, w, a, b = inputs(9, 6)
    wide = torch.cat([torch.full((9, 2, 6), torch.nan), x], 1)[:, 2:]
    with switched("fused"):
        assert torch.equal(mixed_activation(wide, w, a, b, NAMES).output, mixed_activation(x, w, a, b, NAMES).output)


def test_the_profiler_sees_it():
    x, *rest = (t.requires_grad_() for t in inputs(5, 7))
    with switched("fused"):
        counted = count(lambda: mixed_activation(x, *rest, NAMES).output.backward(torch.ones(5, 7)))
    assert counted.coverage == 1, counted.uncovered
    assert counted.by_operation["naslab::mixed_activation"].pointwise == 15 * 5 * 4 * 7


@pytest.mark.parametrize(
    ("shapes", "names", "message"),
    [
        (((3, 2, 5), (4,), (4, 5), (4, 5)), NAMES, "x_BKD"),
        (((3, 20), (4,), (4, 5), (4, 5)), NAMES, "x_BKD"),
        (((1, 4, 5), (4,), (4, 5), (4, 5)), NAMES, "x_BKD: a batch of 1"),
        (((3, 4, 5), (3,), (4, 5), (4, 5)), NAMES, "mixing_K"),
        (((3, 4, 5), (4,), (4, 6), (4, 5)), NAMES, "scale_KD"),
        (((3, 4, 5), (4,), (4, 5), (20,)), NAMES, "shift_KD"),
        (((3, 1, 5), (1,), (1, 5), (1, 5)), ("mish",), "'mish'"),
    ],
)
def test_wrong_arguments_are_named(shapes, names, message):
    with pytest.raises(ValueError, match=message):
        mixed_activation(*(torch.rand(shape) for shape in shapes), names)


@pytest.mark.parametrize("candidates", [31, 32, 33, 70])
def test_any_number_of_candidates(candidates):
    names = tuple(ACTIVATIONS)
    chosen = tuple(names[(3 * k + k // 32) % len(names)] for k in range(candidates))
    inputs = (torch.randn(6, candidates, 5), *(torch.randn(s) for s in ((candidates,), *[(candidates, 5)] * 2)))
    with switched("fused"):
        actual = mixed_activation(*inputs, chosen).output
    with switched("reference"):
        expected = mixed_activation(*(t.double() for t in inputs), chosen).output
    assert (actual - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_nan_both_ways(name):
    statistics = torch.zeros(1, 5), torch.ones(1, 5)
    found = []
    for to in ("fused", "reference"):
        x = torch.linspace(-4, 4, 20).reshape(4, 1, 5)
        x[2, 0, 3] = float("nan")
        x.requires_grad_()
        with switched(to):
            output = mixed_activation(x, torch.ones(1), torch.ones(1, 5), torch.zeros(1, 5), (name,), statistics).output
            found.append((output.detach(), *torch.autograd.grad(output.sum(), x)))
    assert found[0][0].isnan().nonzero().tolist() == [[2, 3]]
    for fused, reference in zip(*found, strict=True):
        assert fused.isnan().nonzero()[:, [0, -1]].tolist() == [[2, 3]], "a NaN is lost, or spreads"
        number = ~fused.isnan()
        assert torch.allclose(fused[number], reference[number], atol=1e-5)
