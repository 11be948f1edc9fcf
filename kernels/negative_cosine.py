"""Negative cosine similarity with the gradient stopped at the target: SimSiam's loss, normalisation fused in.

    loss = - mean over rows of  p . z / (max(|p|, eps) max(|z|, eps))

Forward takes the three sums of a row in one pass; backward, with the unit rows u = p / |p| and v = z / |z|,
is dp = - grad / B * (v - (u . v) u) / |p|, in one more. Source: Chen & He 2021, equation 1.

Names: B rows, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, mean_of, way, widened
from naslab.kernels._triton import Launch, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

EPSILON = 1e-8
"""Least norm, as in torch.nn.functional.cosine_similarity."""
CROSSOVER = 32_768
"""Elements from which the C++ loops win on a CPU (`naslab bench kernels`)."""
LAUNCH = {"any": Launch(1024, num_warps=4), "gfx": Launch(1024, num_warps=4)}


@full_precision
def reference(p_BD: Tensor, z_BD: Tensor) -> Tensor:
    """The definition."""
    p, z = (rows.to(widened(rows.dtype)) for rows in (p_BD, z_BD))  # float16 has neither 1e-8 nor norms above 65504
    return -mean_of(F.cosine_similarity(p, z, dim=1, eps=EPSILON)).to(p_BD.dtype)


@kernel
@no_type_check
def cosine_forward(p_ptr, z_ptr, kept_ptr, rows, width, EPSILON: tl.constexpr, BLOCK: tl.constexpr):
    """Cosine of one row, and one over the norm of both."""
    row = tl.program_id(0).to(tl.int64)
    dot = tl.zeros((BLOCK,), tl.float32)
    squares_p = tl.zeros((BLOCK,), tl.float32)
    squares_z = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        p = tl.load(p_ptr + row * width + d, mask=d < width, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + row * width + d, mask=d < width, other=0.0).to(tl.float32)
        dot += p * z
        squares_p += p * p
        squares_z += z * z
    inverse_p = 1.0 / tl.maximum(tl.sqrt(tl.sum(squares_p)), EPSILON)
    inverse_z = 1.0 / tl.maximum(tl.sqrt(tl.sum(squares_z)), EPSILON)
    tl.store(kept_ptr + row, tl.sum(dot) * inverse_p * inverse_z)
    tl.store(kept_ptr + rows + row, inverse_p)
    tl.store(kept_ptr + 2 * rows + row, inverse_z)


@kernel
@no_type_check
def cosine_backward(grad_ptr, kept_ptr, p_ptr, z_ptr, dp_ptr, rows, width, BLOCK: tl.constexpr):
    """Gradient of one row of p."""
    row = tl.program_id(0).to(tl.int64)
    cosine = tl.load(kept_ptr + row)
    inverse_p = tl.load(kept_ptr + rows + row)
    inverse_z = tl.load(kept_ptr + 2 * rows + row)
    factor = -tl.load(grad_ptr).to(tl.float32) / rows * inverse_p
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        p = tl.load(p_ptr + row * width + d, mask=d < width, other=0.0).to(tl.float32)
        z = tl.load(z_ptr + row * width + d, mask=d < width, other=0.0).to(tl.float32)
        dp = factor * (z * inverse_z - cosine * p * inverse_p)
        tl.store(dp_ptr + row * width + d, dp.to(dp_ptr.dtype.element_ty), mask=d < width)


LOOPS = "negative_cosine.cpp"


@torch.library.custom_op("naslab::negative_cosine", mutates_args=())
def _forward(p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    path = way(p, LOOPS)
    kept = p.new_zeros(3, p.shape[0], dtype=torch.float32)
    if path == "reference":
        return reference(p, z), kept
    if path == "native":
        loss = p.new_empty(())
        _native.call(LOOPS, "cosine_forward", p, z, kept, loss, *p.shape, EPSILON)
        return loss, kept
    if p.shape[0]:
        size = launch("negative_cosine", p.device, LAUNCH)
        cosine_forward[(p.shape[0],)](
            p, z, kept, *p.shape, EPSILON=EPSILON, BLOCK=_block(p, size), num_warps=size.num_warps
        )
    return (-kept[0].sum() / max(p.shape[0], 1)).to(p.dtype), kept


@_forward.register_fake
def _(p: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    return p.new_empty(()), p.new_empty(3, p.shape[0], dtype=torch.float32)


@torch.library.custom_op("naslab::negative_cosine_backward", mutates_args=())
def _backward(grad: Tensor, kept: Tensor, p: Tensor, z: Tensor) -> Tensor:
    path = way(p, LOOPS)
    if path == "reference" or not p.numel():
        return fallback(reference, [True], grad, p, z)[0]
    dp = torch.empty_like(p)
    if path == "native":
        _native.call(LOOPS, "cosine_backward", grad, kept, p, z, dp, *p.shape)
        return dp
    size = launch("negative_cosine", p.device, LAUNCH)
    cosine_backward[(p.shape[0],)](
        grad, kept, p, z, dp, *p.shape, BLOCK=_block(p, size), num_warps=size.num_warps
    )  # fmt: skip
    return dp


@_backward.register_fake
def _(grad: Tensor, kept: Tensor, p: Tensor, z: Tensor) -> Tensor:
    return torch.empty_like(p)


def _block(p: Tensor, size: Launch) -> int:
    """No more lanes than the row needs."""
    return min(size.block, max(64, 1 << max(p.shape[1] - 1, 0).bit_length()))


_operation = differentiable("negative_cosine", reference, leading=1)


def negative_cosine(p_BD: Tensor, z_BD: Tensor) -> Tensor:
    """Minus the mean cosine similarity of rows, gradient stopped at z (SimSiam, equation 1), a scalar.

    Args:
        p_BD: predictions, floating point; dtypes are promoted.
        z_BD: what they should point to; it gets no gradient.

    Raises:
        ValueError: an argument's shape or dtype does not fit.
    """
    if not (p_BD.ndim == 2 and p_BD.is_floating_point()):
        raise misfit("p_BD", p_BD, "a floating (batch, width)")
    same = z_BD.shape == p_BD.shape and z_BD.is_floating_point()
    if not same:
        raise misfit("z_BD", z_BD, f"a floating {tuple(p_BD.shape)}")
    same_device("z_BD", z_BD, p_BD)
    dtype = torch.promote_types(p_BD.dtype, z_BD.dtype)
    p, z = p_BD.to(dtype), z_BD.detach().to(dtype)
    if fused(p, CROSSOVER, LOOPS, on_gpu="eager"):
        loss: Tensor = _operation(p.contiguous(), z.contiguous())[0]
        return loss
    return reference(p, z)


def flops(rows: int, width: int, backward: bool = False) -> int:
    """FLOPs: three sums of products, 6 an element; backward two scaled rows and their sum, 5."""
    return rows * width * (5 if backward else 6)


def traffic_bytes(rows: int, width: int, element_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: both inputs once; backward the gradient too."""
    return rows * width * element_bytes * (3 if backward else 2)
