"""Models that counters get wrong or fail on, against the count by hand."""

import dataclasses
import warnings

import pytest
import torch
from small_models import LINEAR, Fn, batch, layer, profiled, summed_product
from torch import nn
from torch._higher_order_ops.map import map as map_over
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.utils import prune

from naslab.efficiency import InputError, count, count_forward, count_training_step, profile
from naslab.efficiency.flop_count import OUTSIDE
from naslab.efficiency.memory import parameter_bytes, peak_memory_bytes


def test_outputs_of_any_kind_have_a_training_step():
    @dataclasses.dataclass
    class Result:
        y: torch.Tensor

    class Plain:
        pass

    def plain(f, x):
        result = Plain()
        result.inner = Result(f(x))
        return result

    for function in (lambda f, x: Result(f(x)), plain, lambda f, x: torch.fft.fft(f(x)), lambda f, x: {"a": [f(x)]}):
        assert profiled(Fn(function, layer()), batch()).flops.training_step == 2 * LINEAR


@pytest.mark.parametrize("layout", ["to_sparse_coo", "to_sparse_csr"])
def test_a_graph_network_with_a_sparse_adjacency(layout):
    dense = torch.zeros(64, 64)
    dense.view(-1)[torch.randperm(4096)[:374]] = 1
    adjacency, x = getattr(dense, layout)(), torch.randn(64, 16)
    found = profiled(Fn(lambda f, a, x: torch.sparse.mm(a, f(x)), layer()), (adjacency, x))
    forward = 2 * 64 * 16 * 16 + 2 * 374 * 16
    assert found.flops.forward == forward
    assert found.flops.training_step == 2 * forward  # the input needs no gradient, the adjacency none
    assert (found.coverage, found.missing) == (1.0, {})


def of_each_sparse_layout():
    dense = torch.zeros(64, 64)
    dense.view(-1)[torch.randperm(4096)[:374]] = 1
    for layout in ("coo", "csr", "csc"):
        yield dense, getattr(dense, f"to_sparse_{layout}")()


def test_sparse_products_of_each_layout_and_side():
    x = torch.randn(64, 8)
    for _, sparse in of_each_sparse_layout():
        for product in (
            lambda m: m @ x,
            lambda m: torch.sparse.mm(m, x),
            lambda m: x.t() @ m,
            lambda m: F.linear(x.t(), m),
            lambda m: torch.addmm(torch.zeros(64, 8), m, x),
        ):
            counted = count(lambda product=product, sparse=sparse: product(sparse))
            assert counted.total == 2 * 374 * 8
            assert counted.coverage == 1.0
    dense, sparse = next(of_each_sparse_layout())
    stored = dense != 0
    pairs = int((stored.sum(0) * stored.sum(1)).sum())
    assert count(torch.sparse.mm, sparse, sparse).total == 2 * pairs
    assert count(torch.mv, sparse, x[:, 0]).total == 2 * 374
    blocks = torch.block_diag(*[torch.ones(8, 8)] * 8)
    assert count(lambda: blocks.to_sparse_bsr((8, 8)) @ x).total == 2 * 8 * 64 * 8


def test_the_bodies_of_control_flow_are_counted():
    x, xs = batch(), torch.randn(5, 4, 16)

    def branch(f, x, taken):
        return torch.cond(x.sum() > (-1e9 if taken else 1e9), lambda a: f(a), lambda a: a * 2, (x,))

    assert count_forward(Fn(lambda f, x: branch(f, x, True), layer()), x).total == LINEAR
    assert count_forward(Fn(lambda f, x: branch(f, x, False), layer()), x).total == 0
    looped = Fn(lambda f, x: while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, f(a)), (torch.tensor(0), x)), layer())
    assert count_forward(looped, x).total == 3 * LINEAR
    scanned = Fn(lambda f, x: scan(lambda c, a: (f(c) + a, c.clone()), x, xs), layer())
    assert count_forward(scanned, x).total in (5 * LINEAR, 6 * LINEAR)  # torch 2.11 runs the body once more, for shapes
    assert count_forward(Fn(lambda f, x: map_over(lambda a: f(a), xs), layer()), x).total == 5 * LINEAR
    found = profiled(Fn(lambda f, x: branch(f, x, True), layer()), x, only=("flops", "latency", "memory"))
    assert (found.coverage, found.missing) == (1.0, {})
    assert found.peak_memory_bytes > 0


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flexible_attention_and_nested_tensors_are_profiled():
    q = torch.randn(1, 2, 16, 8)
    found = profiled(Fn(lambda f, q: flex_attention(q, q, q), nn.Linear(8, 8)), q, only=("flops", "memory"))
    assert (found.flops.forward, found.missing) == (2 * 2 * 2 * 16 * 16 * 8, {})
    for kind in (torch.strided, torch.jagged):
        ragged = torch.nested.nested_tensor([torch.randn(3, 16), torch.randn(5, 16)], layout=kind)
        found = profiled(Fn(lambda f, x: f(x), layer()), ragged)
        assert (found.flops.forward, found.flops.training_step) == (2 * LINEAR, 4 * LINEAR)
        assert found.missing == {}


def test_coverage_never_says_all_while_something_unknown_ran():
    x, w = torch.randn(4096, 128), nn.Linear(128, 64)
    found = profiled(Fn(lambda f, x: (f(x), summed_product(x, torch.ones(128, 128))), w), x)
    assert found.flops.forward == 2 * 4096 * 128 * 64
    assert found.uncovered == ("naslab_hard::summed_product",)
    assert found.coverage == min(found.coverage_by.values()) < 0.7
    assert found.coverage_by["elements"] > 0.999  # by elements alone it would look complete
    assert count_forward(Fn(lambda f, x: f(x), w), x).most_uncovered == 0
    # The product that it really was is within what it could have been.
    counted = count_forward(Fn(lambda f, x: summed_product(x, torch.ones(128, 128)), w), x)
    assert counted.most_uncovered >= 2 * 4096 * 128 * 128


def test_what_has_no_floating_point_numbers_has_no_work():
    counted = count(lambda: torch._is_all_true(torch.ones(4, dtype=torch.bool)))
    assert (counted.coverage, counted.uncovered, counted.total) == (1.0, (), 0)


def test_zeros_count_in_the_product_that_reads_them():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(16, 16)
            self.down, self.up = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 16), (16, 4)))

        def forward(self, x):
            return F.linear(x, self.weight, self.bias) + x @ self.down.t() @ self.up.t()

    model = Adapted()
    with torch.no_grad():
        model.weight.view(-1)[:128] = 0
    counted = count_forward(model, batch())
    assert counted.total == LINEAR + 2 * 2 * 4 * 16 * 4
    assert counted.work.effective == counted.total - LINEAR // 2
    cast = Fn(lambda f, x: F.linear(x.bfloat16(), f.weight.bfloat16()), model)
    assert count_forward(cast, batch()).work.effective == LINEAR // 2
    masked = layer()
    prune.l1_unstructured(masked, "weight", amount=64)
    assert count_forward(masked, batch()).work.effective == LINEAR * 3 // 4
    state = Fn(lambda f, x: f(x) @ torch.zeros(16, 16), layer())
    assert count_forward(state, batch()).work.effective == 2 * LINEAR  # zeros that are data are no zero weights


def test_rows_of_modules_sum_to_the_total():
    free = nn.Parameter(torch.randn(16, 16))

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.called, self.reached = layer(), layer()

        def forward(self, x):
            return self.called(x) + self.reached.forward(x) + x @ x.t() @ x

    found = profiled(Mixed(), batch())
    own = {name: row["own"] for name, row in found.by_module.items()}
    assert own == {"": 2 * 2 * 4 * 4 * 16, "called": LINEAR, "reached": LINEAR}
    assert sum(own.values()) == found.flops.forward
    assert found.by_module["reached"] == found.by_module["called"]
    assert found.by_module["called"]["output_shape"] == [4, 16]
    assert found.by_module["called"]["parameters"] == 16 * 16 + 16

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = free

        def forward(self, x):
            return Product.apply(x, self.weight)

    found = profiled(Late(), batch())
    assert sum(row["backward"] for row in found.by_module.values()) == found.flops.training_step - found.flops.forward
    assert OUTSIDE not in found.by_module


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x)
        return x @ w

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return None, x.t() @ gradient


@pytest.mark.parametrize(("kind", "positions"), [(nn.Conv1d, 6), (nn.Conv2d, 36)])
def test_a_complex_convolution_is_four_real_ones(kind, positions):
    model = kind(3, 4, 3, dtype=torch.complex64)
    images = torch.randn(1, 3, *[8] * (model.weight.ndim - 2), dtype=torch.complex64)
    assert count_forward(model, images).total == 4 * 2 * positions * model.weight.numel()
    assert count_training_step(model, images).total == 2 * count_forward(model, images).total


def test_parameters_that_are_parts_of_larger_storages():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            large = torch.randn(1_000_000)
            self.a, self.b = nn.Parameter(large[:16]), nn.Parameter(large[16:48])
            self.again = nn.Parameter(self.a.data)

    assert parameter_bytes(Slices()) == 4 * (16 + 32)


def test_what_is_traced_within_a_forward_is_no_work():
    def exporting(linear, x):
        return torch.export.export(linear, (torch.randn(4, 16),)).module()(linear(x))

    def pretending(linear, x):
        with FakeTensorMode():
            torch.empty(1000, 1000) @ torch.empty(1000, 1000)
        torch.empty(99, 99, device="meta") @ torch.empty(99, 99, device="meta")
        return linear(x)

    found = count_forward(Fn(exporting, layer()), batch())
    assert (found.total, found.uncovered) == (2 * LINEAR, ())
    assert count_forward(Fn(pretending, layer()), batch()).total == LINEAR


def test_models_on_fake_tensors_are_counted_and_never_timed():
    with FakeTensorMode():
        model, x = layer(), torch.empty(4, 16)
    assert count_forward(model, x).total == LINEAR
    with pytest.raises(InputError, match="fake tensors have no values to time"):
        profile(model, x)


def test_eight_bit_floats_are_counted():
    def scaled(linear, x):
        a, b = x.to(torch.float8_e4m3fn), linear.weight.to(torch.float8_e4m3fn).t()
        return torch._scaled_mm(a, b, scale_a=torch.ones(()), scale_b=torch.ones(()), out_dtype=torch.bfloat16)

    try:
        scaled(layer(), torch.randn(16, 16))
    except RuntimeError as refusal:
        pytest.skip(f"needs a processor on which PyTorch multiplies 8-bit floats: {refusal}")
    assert count_forward(Fn(scaled, layer()), torch.randn(16, 16)).total == 2 * 16**3


def zero_bias(linear):
    nn.init.zeros_(linear.bias)
    return linear


@pytest.mark.parametrize(
    ("function", "shape", "flops"),
    [
        (lambda f, x: torch.addmm(f.bias, x, f.weight), (4, 16), LINEAR),
        (lambda f, x: torch.baddbmm(f.bias, x, f.weight.expand(2, -1, -1)), (2, 4, 16), 2 * LINEAR),
        (lambda f, x: torch.addmv(f.bias, f.weight, x), (16,), LINEAR // 4),
        (lambda f, x: f(x), (4, 16), LINEAR),
    ],
)
def test_a_bias_of_zeros_saves_nothing(function, shape, flops):
    counted = count_forward(Fn(function, zero_bias(layer())), torch.randn(shape))
    assert (counted.total, counted.work.effective) == (flops, flops)


def test_zeros_of_a_weight_count_under_autocast_and_in_a_bilinear_layer():
    linear = layer()
    bilinear = nn.Bilinear(4, 4, 4, bias=False)
    with torch.no_grad():
        linear.weight[:4] = 0
        bilinear.weight[:2] = 0
    found = profiled(linear, batch(), autocast=torch.bfloat16)
    assert (found.flops.forward, found.flops.effective_forward) == (LINEAR, LINEAR * 3 // 4)
    counted = count_forward(bilinear, (torch.randn(2, 4), torch.randn(2, 4)))
    assert counted.work.effective == counted.total // 2 > 0


def test_weights_that_wrap_others_take_the_bytes_of_those():
    from torch.testing._internal.two_tensor import TwoTensor

    linear = nn.Linear(16, 16, bias=False)
    halves = linear.weight.detach().half()
    linear.weight = nn.Parameter(TwoTensor(halves.float(), halves.float()), requires_grad=False)
    assert parameter_bytes(linear) == 2 * 4 * 256
    assert peak_memory_bytes(linear, batch()) >= 2 * 4 * 256 + 4 * 4 * 16


def test_packed_weights_are_part_of_the_peak():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer()), {nn.Linear}, dtype=torch.qint8)
    assert peak_memory_bytes(packed, batch()) >= parameter_bytes(packed) + 2 * 4 * 4 * 16
