"""One of each further kind of model that counters trip over, against the count by hand."""

import collections
import dataclasses
import io
import types

import pytest
import torch
import torchvision
from small_models import LINEAR, QUICK, Fn, batch, layer
from torch import nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn import functional as F

from naslab.efficiency import count_forward, count_training_step, profile

STEP = 2 * LINEAR
"""The input wants no gradient."""


@dataclasses.dataclass(slots=True)
class Slotted:
    logits: torch.Tensor
    cache: object = None


@pytest.mark.parametrize(
    ("pack", "times"),
    [
        (lambda y: Slotted(y()), 1),
        (lambda y: types.MappingProxyType({"logits": y()}), 1),
        (lambda y: collections.UserDict(logits=y()), 1),
        (lambda y: {y()}, 1),
        (lambda y: {"none": None, "name": "x", "logits": [(y(),)]}, 1),
        (lambda y: torch.distributions.Normal(y(), 1.0), 1),
        (lambda y: (y() for _ in range(3)), 3),
    ],
)
def test_outputs_in_structures_that_torch_does_not_take_apart(pack, times):
    found = profile(Fn(lambda f, x: pack(lambda: f(x)), layer()), batch(), **QUICK)
    assert found.flops.forward == times * LINEAR
    assert found.flops.training_step == times * STEP


LENGTHS = (3, 5)


def ragged(layout):
    return torch.nested.nested_tensor([torch.randn(n, 16) for n in LENGTHS], layout=layout)


def attend(x):
    heads = x.unflatten(-1, (2, 8)).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads)


def test_attention_over_ragged_sequences_counts_the_pairs_that_there_are():
    found = count_forward(Fn(attend), ragged(torch.jagged))
    assert found.total == 4 * 16 * sum(n * n for n in LENGTHS)
    assert found.coverage == 1.0
    assert count_forward(Fn(lambda f, x: f(x), layer()), ragged(torch.strided)).total == 2 * sum(LENGTHS) * 16 * 16


IMAGE, KERNEL = (1, 4, 8, 8), (8, 4, 3, 3)


@pytest.mark.parametrize(
    ("function", "inputs", "flops"),
    [
        (lambda x: torch.conv_tbc(x, torch.ones(3, 16, 8), torch.zeros(8), 1), (5, 4, 16), 2 * 5 * 4 * 8 * 16 * 3),
        (
            lambda x: torchvision.ops.deform_conv2d(x, torch.zeros(1, 18, 8, 8), torch.ones(KERNEL), padding=1),
            IMAGE,
            2 * 8 * 64 * 4 * 9,
        ),
        (
            lambda x: torch._weight_int8pack_mm(
                x.bfloat16(), torch.ones(8, 16, dtype=torch.int8), torch.ones(8, dtype=torch.bfloat16)
            ),
            (4, 16),
            2 * 4 * 8 * 16,
        ),
        (lambda x: torchvision.ops.roi_align(x, [torch.tensor([[0.0, 0, 4, 4]])], 2), IMAGE, 0),
        (lambda x: torchvision.ops.nms(x[:, :4].abs().cumsum(1), x[:, 0], 0.5), (9, 16), 0),
        (lambda x: torch.sparse.softmax(x.relu().to_sparse(), 1), (4, 16), 0),
        (lambda x: torch.zeros(4, 16).scatter_reduce(0, torch.zeros(4, 16, dtype=torch.long), x, "mean"), (4, 16), 0),
        (lambda x: torch.segment_reduce(x, "sum", lengths=torch.tensor([2, 2])), (4, 16), 0),
        (lambda x: torch.special.i0(x) + torch.lgamma(x) + x.nan_to_num() + F.softshrink(x), (4, 16), 0),
    ],
)
def test_operations_that_are_rare(function, inputs, flops):
    found = count_forward(Fn(function), torch.randn(inputs))
    assert found.total == flops
    assert found.uncovered == ()


def test_points_of_regions_follow_their_size():
    def aligned(side, ratio=-1):
        boxes = [torch.tensor([[0.0, 0, side, side]])]
        return count_forward(
            Fn(lambda x: torchvision.ops.roi_align(x, boxes, 2, sampling_ratio=ratio)), torch.ones(IMAGE)
        )

    results = 4 * 2 * 2
    assert aligned(4.0).work.pointwise == 8 * 4 * results
    assert aligned(2.0).work.pointwise == 8 * results
    assert aligned(2.0, ratio=3).work.pointwise == 8 * 9 * results


@pytest.mark.parametrize(
    "function",
    [
        lambda f, x: torch.cond(x.sum() > -1e9, lambda x: f(x), lambda x: x.clone(), (x,)),
        lambda f, x: while_loop(lambda i, x: i < 1, lambda i, x: (i + 1, f(x)), (torch.tensor(0), x))[1],
        lambda f, x: scan(lambda c, y: (f(c), y), x, x[:1])[0],
        lambda f, x: f(x) + torch.cond(x.sum() > -1e9, lambda x: f(x), lambda x: x.clone(), (x,)),
    ],
)
def test_a_training_step_through_control_flow_is_none_with_its_reason(function):
    """Without compilation the last would have a gradient, of a part of itself only: a number that is too small."""
    found = profile(Fn(function, layer()), batch(), **QUICK)
    assert found.flops.forward >= LINEAR
    assert found.flops.training_step is None
    assert "the backward of control flow" in found.missing["training_step"]
    assert count_training_step(Fn(function, layer()), batch()) is None


def halved(module, name="weight"):
    with torch.no_grad():
        weight = getattr(module, name)
        weight.flatten()[: weight.numel() // 2] = 0
    return module


def test_zeros_in_fused_layers_and_under_masks_made_on_the_way():
    recurrent = count_forward(halved(nn.LSTM(16, 16), "weight_ih_l0"), torch.randn(5, 4, 16))
    assert recurrent.work.effective == recurrent.total * 3 // 4  # a half of one of two matrices of the same size
    attention = halved(nn.MultiheadAttention(16, 2, batch_first=True), "in_proj_weight")
    fused = count_forward(Fn(lambda m, x: m(x, x, x, need_weights=False)[0], attention), torch.randn(2, 4, 16))
    assert fused.total - fused.work.effective == 2 * 8 * 3 * 16 * 16 // 2
    masked = Fn(lambda f, x: F.linear(x, f.weight * (torch.arange(16) < 8)[:, None]), layer())
    assert count_forward(masked, batch()).work.effective == LINEAR // 2


def test_a_sweep_resizes_the_dimension_that_holds_the_samples():
    shapes = io.StringIO()  # a stream is not put back
    model = Fn(lambda f, x: (shapes.write(f"{tuple(x.shape)};"), f(x))[1], layer())
    found = profile(
        model, torch.randn(9, 4, 16), batch_dim=1, batch_sizes=(2, 8), only=(), min_seconds=0.0, max_seconds=0.01
    )
    assert found.batch_size == 4
    assert [row["batch_size"] for row in found.batch_sweep["rows"]] == [2, 8]
    assert {"(9, 2, 16)", "(9, 8, 16)"} <= set(shapes.getvalue().split(";"))
