"""Pooling along the features of a batch of vectors: window 3, stride 1, padding 1, maximum or mean.

    maximum: y_d = max(x_{d-1}, x_d, x_{d+1}) of those that there are;   mean: y_d = (x_{d-1} + x_d + x_{d+1}) / 3

with zeros beyond the ends, as torch.nn.functional's max_pool1d and avg_pool1d have it: of equal values the first has
the gradient, and a NaN is the largest. PyTorch takes vectors for images of one row and walks window by window; here a
row is one loop. Source: the parameter-free candidates of the NASiam supernet (Heuillet et al. 2023).

Names: B batch, D features.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels import _native
from naslab.kernels._check import misfit
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, way

Pool = Literal["maxpool", "avgpool"]
CROSSOVER = 8_192
"""Elements from which the C++ loops win on a CPU (`naslab bench kernels`)."""
LOOPS = "feature_pool.cpp"


@full_precision
def reference(x_BD: Tensor, maximum: bool) -> Tensor:
    """The definition."""
    if not x_BD.numel():
        return x_BD.clone()
    return (F.max_pool1d if maximum else F.avg_pool1d)(x_BD[:, None], 3, 1, 1)[:, 0]


@torch.library.custom_op("naslab::feature_pool", mutates_args=())
def _forward(x: Tensor, maximum: bool) -> Tensor:
    if way(x, LOOPS) != "native" or not x.numel():
        return reference(x, maximum).contiguous()
    out = torch.empty_like(x)
    _native.call(LOOPS, "pool_forward", x, out, *x.shape, int(maximum))
    return out


@_forward.register_fake
def _(x: Tensor, maximum: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("naslab::feature_pool_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, maximum: bool) -> Tensor:
    dx = torch.empty_like(x)
    if not x.numel():
        return dx
    if way(x, LOOPS) != "native":
        return fallback(reference, [True], grad, x, maximum)[0]
    _native.call(LOOPS, "pool_backward", grad, x, dx, *x.shape, int(maximum))
    return dx


@_backward.register_fake
def _(grad: Tensor, x: Tensor, maximum: bool) -> Tensor:
    return torch.empty_like(x)


_operation = differentiable("feature_pool", reference, leading=1)


def feature_pool(x_BD: Tensor, kind: Pool) -> Tensor:
    """Pool each vector along its features; shape kept.

    Args:
        x_BD: floating point.
        kind: "maxpool" or "avgpool".

    Raises:
        ValueError: another kind, or no batch of vectors.
    """
    if kind not in get_args(Pool):
        raise ValueError(f"kind: {kind!r} is not one of {', '.join(get_args(Pool))}")
    if not (x_BD.ndim == 2 and x_BD.is_floating_point()):
        raise misfit("x_BD", x_BD, "a floating (batch, features)")
    if fused(x_BD, CROSSOVER, LOOPS, on_gpu="never"):
        pooled: Tensor = _operation(x_BD.contiguous(), kind == "maxpool")
        return pooled
    return reference(x_BD, kind == "maxpool")


def flops(batch: int, width: int, maximum: bool, backward: bool = False) -> int:
    """FLOPs: 3 a window, backward of a maximum 1."""
    return batch * width * (1 if maximum and backward else 3)


def traffic_bytes(batch: int, width: int, element_bytes: int, maximum: bool, backward: bool = False) -> int:
    """Bytes that must move: one tensor read and one written; where the gradient goes depends on the values too."""
    return batch * width * element_bytes * (3 if maximum and backward else 2)
