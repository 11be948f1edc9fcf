"""Pointwise work by its convention (docs/efficiency.md): one arithmetic operation or function of one number is 1."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from naslab.efficiency import Work, count, count_forward, count_training_step, register_formula
from naslab.efficiency.formulas import FORMULAS, TRAFFIC

X = torch.linspace(0.1, 0.9, 15).reshape(3, 5)
Y = X.flip(0)
aten = torch.ops.aten

EACH = {
    # of each element, in the order in which it is computed
    "add": (lambda: X + Y, 1),
    "exp": (lambda: X.exp(), 1),
    "compare": (lambda: X < Y, 1),
    "addcmul: times, plus": (lambda: torch.addcmul(X, X, Y), 2),
    "leaky ReLU: compare, times": (lambda: F.leaky_relu(X), 2),
    "lerp: minus, times, plus": (lambda: torch.lerp(X, Y, 0.3), 3),
    "ELU: exp, minus, times": (lambda: F.elu(X), 3),
    "softplus: exp, plus, log": (lambda: F.softplus(X), 3),
    "sigmoid: negate, exp, plus, divide": (lambda: torch.sigmoid(X), 4),
    "hardsigmoid: plus, two bounds, divide": (lambda: F.hardsigmoid(X), 4),
    "SiLU: sigmoid, times": (lambda: F.silu(X), 5),
    "mish: softplus, tanh, times": (lambda: F.mish(X), 5),
    "hardswish: hardsigmoid, times": (lambda: F.hardswish(X), 5),
    "GELU": (lambda: F.gelu(X), 5),
    "backward of GELU: twice": (lambda: aten.gelu_backward(X, Y), 10),
    "softmax: largest, minus, exp, sum, divide": (lambda: X.softmax(-1), 5),
    "log softmax: largest, minus, exp, sum, minus": (lambda: X.log_softmax(-1), 5),
    "backward of softmax: times, sum, minus, times": (lambda: aten._softmax_backward_data(X, Y, -1, torch.float), 4),
    "sum": (lambda: X.sum(), 1),
    "largest": (lambda: X.amax(0), 1),
    "norm: square, sum": (lambda: torch.linalg.vector_norm(X), 2),
    "variance: sum, minus, square, sum": (lambda: X.var(0), 4),
    "squared error: minus, square, sum": (lambda: F.mse_loss(X, Y), 3),
    "its backward: minus, times 2, times": (lambda: aten.mse_loss_backward(X.new_ones(()), X, Y, 1), 3),
    "Huber loss": (lambda: F.huber_loss(X, Y), 3),
    "smooth L1 loss, which is a Huber loss": (lambda: F.smooth_l1_loss(X, Y), 3),
    "soft margin: times, negate, exp, log1p, sum": (lambda: F.soft_margin_loss(X, Y), 5),
    "cross entropy of two": (lambda: F.binary_cross_entropy(X, Y), 5),
    "the same of logits": (lambda: F.binary_cross_entropy_with_logits(X, Y), 5),
    "scatter": (lambda: X.scatter_add(0, torch.zeros(3, 5, dtype=torch.long), Y), 1),
    "layer norm": (lambda: F.layer_norm(X, (5,)), 8),
    "batch norm that trains": (lambda: F.batch_norm(X, torch.zeros(5), torch.ones(5), training=True), 8),
    "batch norm with given statistics": (lambda: F.batch_norm(X, torch.zeros(5), torch.ones(5)), 4),
    "batch norm that is not asked": (
        lambda: aten._batch_norm_with_update(X, None, None, torch.zeros(5), torch.ones(5), 0.1, 1e-5),
        8,
    ),
    "batch norm that is not asked either": (
        lambda: aten._native_batch_norm_legit_no_training(X, None, None, torch.zeros(5), torch.ones(5), 0.1, 1e-5),
        4,
    ),
    "draws: sum, divide": (lambda: aten.multinomial(X, 2), 2),
    "copy": (lambda: X.clone(), 0),
    "a list of tensors": (lambda: torch._foreach_mul([X[:1], X[1:]], 2.0), 1),
    "addcmul of a list": (lambda: torch._foreach_addcmul([X], [X], [Y]), 2),
    "lerp of a list": (lambda: torch._foreach_lerp([X], [Y], 0.3), 3),
}


@pytest.mark.parametrize("name", EACH)
def test_of_each_element(name):
    function, flops = EACH[name]
    counted = count(function)
    assert (counted.total, counted.work.pointwise, counted.uncovered) == (0, 15 * flops, ())


def test_a_gated_linear_unit_is_a_sigmoid_and_a_product_of_each_result():
    assert count(F.glu, torch.ones(3, 10), -1).work == Work(pointwise=15 * (4 + 1))


def test_the_backward_of_a_normalisation_is_twice_its_forward():
    for layer in (nn.LayerNorm(5), nn.GroupNorm(1, 5), nn.BatchNorm1d(5)):
        counted = count_training_step(nn.Sequential(nn.Linear(5, 5), layer), X)
        for phase, flops in (("forward", 8), ("backward", 16)):
            found = [one for one in counted.operations if one.kind == "normalisation" and one.phase == phase]
            assert sum(one.work.pointwise for one in found) == flops * 15


@pytest.mark.parametrize(
    ("function", "shape", "flops"),
    [
        (lambda x: F.max_pool2d(x, 2), (2, 3, 8, 8), 2 * 3 * 16 * 4),
        (lambda x: F.max_pool2d(x, 2), (3, 8, 8), 3 * 16 * 4),
        (lambda x: aten.avg_pool2d(x, [2]), (3, 8, 8), 3 * 16 * 4),
        (lambda x: aten.max_pool3d_with_indices(x, [2])[0], (3, 4, 4, 4), 3 * 8 * 8),
        (lambda x: F.max_pool2d(x, (2, 4)), (2, 3, 8, 8), 2 * 3 * 8 * 8),
        (lambda x: F.max_pool3d(x, 2), (2, 3, 4, 4, 4), 2 * 3 * 8 * 8),
        (lambda x: F.avg_pool1d(x, 4), (2, 3, 8), 2 * 3 * 2 * 4),
        (lambda x: F.avg_pool1d(x, 4), (3, 8), 3 * 2 * 4),
        (lambda x: F.avg_pool2d(x, 3, stride=1), (2, 3, 5, 5), 2 * 3 * 9 * 9),
        (lambda x: F.avg_pool3d(x, (1, 2, 2)), (2, 3, 4, 4, 4), 2 * 3 * 16 * 4),
        (lambda x: F.adaptive_avg_pool2d(x, 2), (2, 3, 8, 8), 2 * 3 * 64),
    ],
)
def test_pooling_is_one_for_each_element_of_each_window(function, shape, flops):
    counted = count(function, torch.ones(shape))
    assert (counted.work, counted.uncovered) == (Work(pointwise=flops), ())


def backward_of(function, x):
    """What the backward of `function` counts, without that of the sum over its results."""
    y = function(x.requires_grad_())
    gradient = torch.ones_like(y)
    counted = count(lambda: torch.autograd.grad(y, x, gradient))
    assert counted.uncovered == ()
    return counted.work.pointwise


def test_the_backward_of_average_pooling_goes_over_the_same_windows():
    assert backward_of(lambda x: F.avg_pool2d(x, 3, stride=1), torch.ones(2, 3, 5, 5)) == 2 * 3 * 9 * 9
    assert backward_of(lambda x: F.avg_pool3d(x, 2), torch.ones(2, 3, 4, 4, 4)) == 2 * 3 * 8 * 8


@pytest.mark.parametrize(
    ("mode", "dimensions", "neighbours"),
    [("nearest", 1, None), ("nearest", 2, None), ("nearest", 3, None), ("linear", 1, 2), ("bilinear", 2, 4),
     ("trilinear", 3, 8), ("bicubic", 2, 16)],
)  # fmt: skip
def test_resizing_is_two_for_each_neighbour_of_each_result(mode, dimensions, neighbours):
    """A copy is nothing; its backward adds up what was copied."""
    x = torch.ones(2, 3, *[4] * dimensions)

    def resize(x):
        return F.interpolate(x, scale_factor=2, mode=mode)

    results = 2 * 3 * 8**dimensions
    assert count(resize, x).work == Work(pointwise=2 * (neighbours or 0) * results)
    assert backward_of(resize, x) == (2 * neighbours if neighbours else 1) * results


@pytest.mark.parametrize(
    ("mode", "dimensions", "neighbours"),
    [("bilinear", 2, 4), ("nearest", 2, 1), ("bicubic", 2, 16), ("bilinear", 3, 8)],
)
def test_sampling_is_ten_for_each_position_and_two_for_each_neighbour(mode, dimensions, neighbours):
    images = torch.ones(2, 3, *[4] * dimensions)
    grid = torch.zeros(2, *(5, 6, 7)[:dimensions], dimensions)
    positions = grid.numel() // dimensions

    def sample(images):
        return F.grid_sample(images, grid, mode=mode, align_corners=False)

    flops = positions * (10 + 2 * neighbours * 3)
    assert count(sample, images).work == Work(pointwise=flops)
    assert backward_of(sample, images) == 2 * flops


@pytest.mark.parametrize(("kind", "flops"), [(torch.optim.Adam, 12), (torch.optim.SGD, 4)])
def test_a_fused_optimiser_is_counted_by_its_parameters(kind, flops):
    layer = nn.Linear(8, 4)
    counted = count_training_step(layer, torch.ones(3, 8), lambda parameters: kind(parameters, lr=0.1, fused=True))
    (fused,) = {one.name for one in counted.operations if one.name.startswith("_fused_")}
    assert counted.by_operation[fused].pointwise == flops * (8 * 4 + 4)
    assert counted.coverage == 1.0


@pytest.mark.parametrize(("dimensions", "kind", "named"), [*product((1, 2, 3), ("", "_transpose"), (False, True))])
def test_a_complex_convolution_is_four_real_ones_however_it_is_called(dimensions, kind, named):
    name = f"conv{kind}{dimensions}d"
    before = getattr(F, name)
    shapes = (2, 3, *[5] * dimensions), (3, 3, *[2] * dimensions)

    def flops(dtype):
        x, weight = (torch.ones(shape, dtype=dtype) for shape in shapes)
        arguments = ((), {"input": x, "weight": weight}) if named else ((x, weight), {})
        return count(lambda: getattr(F, name)(*arguments[0], **arguments[1])).total

    # Of a transposed convolution every element of the input meets the kernel; of the other, every one of the result.
    places = (5 if kind else 4) ** dimensions
    assert flops(torch.float) == 2 * 2 * places * 3 * 3 * 2**dimensions
    assert flops(torch.cfloat) == 4 * flops(torch.float)
    assert getattr(F, name) is before, "torch is as before"


def test_a_custom_operation_brings_its_own_traffic():
    @torch.library.custom_op("naslab_test::half", mutates_args=())
    def half(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    try:
        register_formula("naslab_test::half", lambda call: Work(pointwise=call.elements))
        assert count(half, X).bytes_moved == 2 * 4 * 15, "read and written once"
        register_formula("naslab_test::half", FORMULAS["naslab_test::half"], lambda call: 7 * call.elements)
        assert count(half, X).bytes_moved == 7 * 15
    finally:
        FORMULAS.pop("naslab_test::half", None)
        TRAFFIC.pop("naslab_test::half", None)


class Fallback(nn.Module):
    """Tries a layer that does not fit, and takes another."""

    def __init__(self):
        super().__init__()
        self.wrong, self.right = nn.Linear(7, 4), nn.Linear(5, 4)

    def forward(self, x):
        try:
            return self.wrong(x)
        except RuntimeError:
            return self.right(x)


def test_a_module_that_raised_is_left():
    counted = count_forward(Fallback(), X)
    assert counted.by_module["right"].contraction == counted.total == 2 * 3 * 5 * 4
    assert counted.by_module.get("wrong", Work()).contraction == 0


class Direct(nn.Module):
    """Calls `forward` of its layer, which no hook sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x):
        return self.layer.forward(x)


def test_a_module_reached_by_its_forward_has_its_row_and_is_as_before():
    model = Direct()
    for _ in range(2):
        assert count_forward(model, X).by_module["layer"].contraction == 2 * 3 * 5 * 4
    assert "forward" not in vars(model.layer)
    own = model.layer.forward
    model.layer.forward = own
    count_forward(model, X)
    assert vars(model.layer)["forward"] is own, "one that the user set stays"


def test_a_count_within_a_count_is_the_same():
    x, weight = torch.ones(1, 2, 5, dtype=torch.cfloat), torch.ones(2, 2, 2, dtype=torch.cfloat)
    inner = []

    def convolve():
        return F.conv1d(x, weight)

    def nested():
        inner.append(count(convolve).total)
        return convolve()

    assert count(nested).total == 2 * inner[0], "what the inner one counts, the outer one does, too"
    assert inner == [count(convolve).total] == [4 * 2 * 4 * 2 * 2 * 2]
