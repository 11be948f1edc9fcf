import pytest
import torch
from torch import nn

from naslab.efficiency import count
from naslab.kernels import feature_pool
from naslab.kernels._dispatch import switched

MODULES = {"maxpool": nn.MaxPool1d(3, 1, 1), "avgpool": nn.AvgPool1d(3, 1, 1)}


def both(x, kind, grad):
    """Results and gradients by the loops, and by PyTorch's module, which takes a vector for a row of one channel."""
    found = []
    for function in (lambda leaf: feature_pool(leaf, kind), lambda leaf: MODULES[kind](leaf[:, None])[:, 0]):
        leaf = x.clone().requires_grad_()
        with switched("fused"):
            y = function(leaf)
        y.backward(grad)
        found.append((y.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 17, 64, 129])
@pytest.mark.parametrize("values", ["equal", "nan", "infinite"])
def test_ends_equal_values_and_what_is_no_number(kind, width, values):
    torch.manual_seed(width)
    x = torch.randint(-3, 3, (40, width)).float()
    if values == "nan":
        x[torch.rand_like(x) < 0.2] = torch.nan
    if values == "infinite":
        x[torch.rand_like(x) < 0.3] = -torch.inf
        x[torch.rand_like(x) < 0.1] = torch.inf
    (y, dx), (expected, expected_dx) = both(x, kind, torch.randn(40, width))
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.nan_to_num(), expected.nan_to_num())
    assert torch.allclose(dx, expected_dx, atol=1e-6), "at most three summands of order 1"


def test_the_profiler_counts_what_pytorchs_modules_are_counted_as():
    for kind, module in MODULES.items():
        x, y = (torch.randn(6, 40, requires_grad=True) for _ in range(2))
        with switched("fused"):
            ours = count(lambda x=x, kind=kind: feature_pool(x, kind).sum().backward())
        theirs = count(lambda y=y, module=module: module(y[:, None])[:, 0].sum().backward())
        assert ours.coverage == 1
        assert ours.work.pointwise == theirs.work.pointwise


def test_nothing_to_pool():
    for way in ("fused", "reference"):
        with switched(way):
            assert feature_pool(torch.empty(0, 5), "maxpool").shape == (0, 5)
            assert feature_pool(torch.empty(3, 0), "avgpool").shape == (3, 0)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"kind: 'median' is not one of maxpool, avgpool"):
        feature_pool(torch.ones(2, 3), "median")
    for shape in ((3,), (2, 3, 4)):
        with pytest.raises(ValueError, match="x_BD"):
            feature_pool(torch.ones(shape), "maxpool")
    with pytest.raises(ValueError, match="x_BD"):
        feature_pool(torch.ones(2, 3, dtype=torch.int64), "maxpool")
