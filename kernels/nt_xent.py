"""NT-Xent, SimCLR's contrastive loss, without the similarity matrix in memory.

    loss = mean over rows i of  log(sum over j of exp(z_i . z_j / t)) - z_i . positive_i / t

(Chen et al. 2020, equation 1): z are the 2B normalised embeddings of a batch, j runs over all but i, the positive is
the other view.

A row's loss is made as softplus(log-sum-exp of its negatives - positive), which loses nothing where pairs are aligned.
Backward makes the tiles of similarities again: with w_ij = exp(s_ij - lse_i) + exp(s_ij - lse_j), 0 at i = j, and at
the positive p_i + p_j - 2 = expm1(-loss_i) + expm1(-loss_j), dz_i = sum_j w_ij z_j / (2B t); w is symmetric, so one
pass that owns rows is enough.

Names: N = 2B rows, D width, t temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, mean_of, way, widened
from naslab.kernels._similarity_tiles import (
    LOG2_E,
    LOOPS,
    TILE,
    Tiles,
    above_positive,
    check_rows,
    check_temperature,
    elements_from,
    load_rows,
    logsumexp_kernel,
    multipliable,
    on_gpu,
    parts,
    similarities,
    store_rows,
    tile_of,
)
from naslab.kernels._triton import kernel

if TYPE_CHECKING:
    import triton.language as tl

CROSSOVER = 2**18
"""Similarities from which the C++ loops win on a CPU (`naslab bench kernels`): 512 rows, a batch of 256."""

SHARPEST = 1 / 40
"""Lowest temperature t of the C++ loops: similarities are between -1 and 1, so exp((s - 1) / t) needs no maximum, until
exp(-2 / t) leaves float32."""


@full_precision
def _normalised(z_a_BD: Tensor, z_b_BD: Tensor) -> Tensor:
    z_ND = torch.cat([z_a_BD, z_b_BD])
    return F.normalize(z_ND.to(widened(z_ND.dtype)), dim=1).to(z_ND.dtype)  # a norm may be too large for float16


@full_precision
def reference_nt_xent(z_ND: Tensor, temperature: float) -> Tensor:
    """The definition of NT-Xent for unit rows, the first views before the second ones."""
    rows = z_ND.shape[0]
    similarity_NN = z_ND @ z_ND.T / temperature
    similarity_NN.diagonal().fill_(float("-inf"))
    positive_N = torch.arange(rows, device=z_ND.device).roll(rows // 2)
    return mean_of(F.cross_entropy(similarity_NN, positive_N, reduction="none"))


@kernel
@no_type_check
def nt_xent_backward(
    z_ptr, lse_ptr, of_positive_ptr, dz_ptr, num_rows, half, width, share, scale,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """sum_j w_ij z_j of a tile of rows over a share of the columns, one chunk of the features."""
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    feature = tl.program_id(2) * CHUNK
    row = (first_row + tl.arange(0, ROWS)).to(tl.int32)
    positive = tl.where(row < half, row + half, row - half)
    a = load_rows(z_ptr, first_row, num_rows, feature, width, ROWS, CHUNK)
    lse_row = tl.load(lse_ptr + row, mask=row < num_rows, other=0.0) * 1.4426950408889634
    of_positive = tl.load(of_positive_ptr + row, mask=row < num_rows, other=0.0)
    dz = tl.zeros((ROWS, CHUNK), tl.float32)
    first = tl.program_id(1) * share
    for start in tl.range(first, tl.minimum(first + share, num_rows), BLOCK, num_stages=STAGES):
        b = load_rows(z_ptr, tl.cast(start, tl.int64), num_rows, feature, width, BLOCK, CHUNK)
        s = similarities(
            a, b, z_ptr, z_ptr, first_row, tl.cast(start, tl.int64), num_rows, num_rows, width,
            ROWS, BLOCK, CHUNK, CHUNKS, PRECISION,
        )  # fmt: skip
        column = start + tl.arange(0, BLOCK)
        lse_column = tl.load(lse_ptr + column, mask=column < num_rows, other=0.0) * 1.4426950408889634
        w = tl.exp2(s * scale - lse_row[:, None]) + tl.exp2(s * scale - lse_column[None, :])
        w = tl.where(positive[:, None] == column[None, :], of_positive[:, None], w)
        seen = (row < num_rows)[:, None] & (column < num_rows)[None, :] & (row[:, None] != column[None, :])
        dz = tl.dot(tl.where(seen, w, 0.0).to(b.dtype), b, dz, input_precision=PRECISION)
    split = tl.program_id(1).to(tl.int64) * num_rows
    store_rows(dz_ptr + split * width, dz, first_row, num_rows, feature, width, ROWS, CHUNK)


@torch.library.custom_op("naslab::nt_xent", mutates_args=())
def _nt_xent(z: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    path, rows = way(z, _loops(temperature)), z.shape[0]
    if path == "reference" or not rows:
        nothing_N = z.new_zeros(rows, dtype=torch.float32)
        return reference_nt_xent(z, temperature), nothing_N, torch.zeros_like(nothing_N)
    if path == "native":
        negatives_N = _symmetric_logsumexp(z, temperature)
    else:
        negatives_N = logsumexp_kernel(z, z, temperature, negatives=True)[0].logsumexp(0)
    first, second = z.float().chunk(2)
    positive_N = ((first * second).sum(1) / temperature).repeat(2)
    loss_N = above_positive(negatives_N, positive_N)
    residual_N = torch.expm1(-loss_N)
    of_positive_N = residual_N + residual_N.roll(rows // 2)
    return loss_N.mean().to(z.dtype), positive_N + loss_N, of_positive_N


@_nt_xent.register_fake
def _(z: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    lse, of_positive = (z.new_empty(z.shape[0], dtype=torch.float32) for _ in range(2))
    return z.new_empty(()), lse, of_positive


@torch.library.custom_op("naslab::nt_xent_backward", mutates_args=())
def _nt_xent_backward(grad: Tensor, lse: Tensor, of_positive: Tensor, z: Tensor, temperature: float) -> Tensor:
    path, dtype = way(z, _loops(temperature)), z.dtype
    if path == "reference" or not z.numel():
        return fallback(reference_nt_xent, [True], grad, z, temperature)[0]
    factor = grad.float() / (temperature * z.shape[0])
    if path == "native":
        return _symmetric_backward(z, lse, of_positive, temperature).mul_(factor)
    z = multipliable(z)
    (rows, width), tiles = z.shape, Tiles(z, z.shape[0], partial_width=z.shape[1])
    dz = z.new_empty(tiles.splits, rows, width, dtype=torch.float32)
    nt_xent_backward[tiles.grid(tiles.chunks)](
        z, lse, of_positive, dz, rows, rows // 2, width, tiles.share, LOG2_E / temperature, **tiles.constants
    )
    return (dz.sum(0) * factor).to(dtype)


@_nt_xent_backward.register_fake
def _(grad: Tensor, lse: Tensor, of_positive: Tensor, z: Tensor, temperature: float) -> Tensor:
    return torch.empty_like(z)


def _loops(temperature: float) -> str:
    return LOOPS if temperature >= SHARPEST else ""


def _symmetric_logsumexp(z: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp over the negatives; each tile above the diagonal serves its rows and its columns."""
    sums_N = z.new_zeros(z.shape[0])
    for i, j, tile in _upper_tiles(z):
        sizes = (*tile.shape, i.start, j.start, z.shape[0], 1 / temperature)
        _native.call(LOOPS, "add_exponentials", tile, sums_N[i], sums_N[j], *sizes)
    return sums_N.log_() + 1 / temperature


def _symmetric_backward(z: Tensor, lse: Tensor, of_positive: Tensor, temperature: float) -> Tensor:
    """sum_j w_ij z_j; each tile above the diagonal serves its rows and its columns."""
    dz, inverse_sums_N = torch.zeros_like(z), (1 / temperature - lse).exp_()
    for i, j, tile in _upper_tiles(z):
        sizes = (*tile.shape, i.start, j.start, z.shape[0], 1 / temperature)
        _native.call(LOOPS, "weights", tile, inverse_sums_N, of_positive, *sizes)
        dz[i].addmm_(tile, z[j])
        if i.start != j.start:
            dz[j].addmm_(tile.T, z[i])
    return dz


def _upper_tiles(z: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and products of the tiles on and above the diagonal, one after another in the same memory."""
    buffer = z.new_empty(TILE * TILE)
    for i in parts(z.shape[0], TILE):
        for j in parts(z.shape[0], TILE):
            if j.start >= i.start:
                yield i, j, tile_of(buffer, z[i], z[j])


_operation = differentiable("nt_xent", reference_nt_xent, leading=1)


def nt_xent(z_a_BD: Tensor, z_b_BD: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2B views of a batch (SimCLR, equation 1), a scalar.

    Args:
        z_a_BD: embeddings of the first views, floating point; normalised here, as the equation has it.
        z_b_BD: those of the second views, row by row of the same images.
        temperature: above 0.

    Raises:
        ValueError: an argument's shape, dtype or value does not fit.
    """
    check_rows(z_a_BD, "z_a_BD")
    same = z_b_BD.shape == z_a_BD.shape and z_b_BD.is_floating_point()
    if not same:
        raise misfit("z_b_BD", z_b_BD, f"a floating {tuple(z_a_BD.shape)}")
    same_device("z_b_BD", z_b_BD, z_a_BD)
    check_temperature(temperature)
    z_ND = _normalised(z_a_BD, z_b_BD)
    if fused(z_ND, elements_from(z_ND, z_ND.shape[0], CROSSOVER), _loops(temperature), on_gpu(z_ND)):
        loss: Tensor = _operation(z_ND.contiguous(), float(temperature))[0]
        return loss
    return reference_nt_xent(z_ND, temperature)


def contraction_flops(rows: int, width: int, backward: bool = False) -> int:
    """FLOPs of the products of 2B rows: 1 forward, 2 backward."""
    return 2 * (2 if backward else 1) * rows * rows * width


def pointwise_flops(rows: int, backward: bool = False) -> int:
    """FLOPs of scale and softmax, as of attention: 6 a similarity, 12 where the backward makes weights of it."""
    return rows * rows * (12 if backward else 6)


def traffic_bytes(rows: int, width: int, element_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: the 2B rows, and backward their gradients too."""
    return (2 if backward else 1) * rows * width * element_bytes
