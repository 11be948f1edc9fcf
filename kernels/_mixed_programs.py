"""Triton programs of the mixed operation: the batch's statistics, the mix, and the gradients of both.

A tile is ROWS samples of BLOCK features; a program walks its NUM candidates, whose activations come as CODES, two bits
each. `mixed_activation` says what is computed, launches the programs and has the same loops in C++.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

from naslab.kernels._triton import kernel

if TYPE_CHECKING:
    import triton.language as tl


@kernel
@no_type_check
def activate(y, CODE: tl.constexpr):
    """Activation by its code."""
    if CODE == 0:
        return tl.where(y <= 0, 0.0, y)  # NaN stays
    if CODE == 1:
        return y / (1.0 + tl.exp(-y))
    if CODE == 2:
        return y * tl.minimum(tl.maximum(y + 3.0, 0.0), 6.0) / 6.0
    return tl.where(y <= 0, tl.exp(tl.minimum(y, 0.0)) - 1.0, y)


@kernel
@no_type_check
def slope(y, CODE: tl.constexpr):
    """Derivative of an activation by its code."""
    if CODE == 0:
        return tl.where(y <= 0, 0.0, 1.0)
    if CODE == 1:
        sigmoid = 1.0 / (1.0 + tl.exp(-y))
        return sigmoid * (1.0 + y * (1.0 - sigmoid))
    if CODE == 2:
        return tl.where(y <= -3.0, 0.0, tl.where(y >= 3.0, 1.0, y / 3.0 + 0.5))
    return tl.where(y <= 0, tl.exp(tl.minimum(y, 0.0)), 1.0)


@kernel
@no_type_check
def batch_statistics(
    x_ptr, partial_ptr, batch, width, row_stride, share, NUM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Mean of a share of the batch, and sum of squares around it, of BLOCK features of one candidate, in one pass.

    Each of ROWS slots keeps its own (Welford 1962); they are joined at the end (Chan et al. 1983, equation 2.1).
    """
    k, split = tl.program_id(1).to(tl.int64), tl.program_id(2)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = k * width + d
    first = split * share
    last = tl.minimum(first + share, batch)
    mean = tl.zeros((ROWS, BLOCK), tl.float32)
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    seen = 0.0
    for start in range(first, last, ROWS):
        b = (start + tl.arange(0, ROWS)).to(tl.int64)
        here = (b < last)[:, None] & (d < width)[None, :]
        x = tl.load(x_ptr + b[:, None] * row_stride + column[None, :], mask=here, other=0.0).to(tl.float32)
        seen += 1.0
        deviation = tl.where(here, x - mean, 0.0)
        mean += deviation / seen
        squares += deviation * (x - mean)
    counts = ((last - first - tl.arange(0, ROWS) + ROWS - 1) // ROWS).to(tl.float32)
    joined = tl.sum(mean * counts[:, None], 0) / (last - first)
    apart = mean - joined[None, :]
    place = tl.cast(split, tl.int64) * 2 * NUM * width + column
    tl.store(partial_ptr + place, joined, mask=d < width)
    squared = tl.sum(squares + apart * apart * counts[:, None], 0)
    tl.store(partial_ptr + place + NUM * width, squared, mask=d < width)


@kernel
@no_type_check
def join_statistics(partial_ptr, mean_ptr, variance_ptr, batch, columns, share, BLOCK: tl.constexpr):
    """Mean and biased variance of BLOCK columns from those of the shares, in their order."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mean = tl.zeros((BLOCK,), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, batch, share):
        place = partial_ptr + tl.cast(first // share, tl.int64) * 2 * columns + column
        count = tl.minimum(share, batch - first)
        apart = tl.load(place, mask=column < columns, other=0.0) - mean
        part = count / (first + count)
        mean += apart * part
        squares += tl.load(place + columns, mask=column < columns, other=0.0) + apart * apart * part * first
    tl.store(mean_ptr + column, mean, mask=column < columns)
    tl.store(variance_ptr + column, squares / batch, mask=column < columns)


@kernel
@no_type_check
def mixed_forward(
    x_ptr, mixing_ptr, scale_ptr, shift_ptr, mean_ptr, variance_ptr, out_ptr, batch, width, row_stride, epsilon,
    NUM: tl.constexpr, CODES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The mix of a tile. CODES holds two bits for each candidate."""
    b = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = d < width
    here = (b < batch)[:, None] & inside[None, :]
    mixed = tl.zeros((ROWS, BLOCK), tl.float32)
    for k in tl.static_range(NUM):
        column = k * width + d
        inverse = tl.rsqrt(tl.load(variance_ptr + column, mask=inside, other=1.0) + epsilon)
        factor = tl.load(scale_ptr + column, mask=inside, other=0.0) * inverse
        offset = tl.load(shift_ptr + column, mask=inside, other=0.0)
        mean = tl.load(mean_ptr + column, mask=inside, other=0.0)
        x = tl.load(x_ptr + b[:, None] * row_stride + column[None, :], mask=here, other=0.0).to(tl.float32)
        y = (x - mean[None, :]) * factor[None, :] + offset[None, :]
        mixed += tl.load(mixing_ptr + k) * activate(y, (CODES >> (2 * k)) & 3)
    tl.store(out_ptr + b[:, None] * width + d[None, :], mixed.to(out_ptr.dtype.element_ty), mask=here)


@kernel
@no_type_check
def mixed_reductions(
    grad_ptr, x_ptr, mixing_ptr, scale_ptr, shift_ptr, mean_ptr, variance_ptr, partial_ptr,
    batch, width, row_stride, epsilon, share,
    NUM: tl.constexpr, CODES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over a share of the batch for BLOCK features of all candidates: for scale, shift and mixing weight."""
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = d < width
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, batch)
    sums = ()
    for _ in tl.static_range(3 * NUM):
        sums = sums + (tl.zeros((ROWS, BLOCK), tl.float32),)
    for start in range(first, last, ROWS):
        b = (start + tl.arange(0, ROWS)).to(tl.int64)
        here = (b < last)[:, None] & inside[None, :]
        grad = tl.load(grad_ptr + b[:, None] * width + d[None, :], mask=here, other=0.0).to(tl.float32)
        added = ()
        for k in tl.static_range(NUM):
            column = k * width + d
            inverse = tl.rsqrt(tl.load(variance_ptr + column, mask=inside, other=1.0) + epsilon)
            scale = tl.load(scale_ptr + column, mask=inside, other=0.0)
            shift = tl.load(shift_ptr + column, mask=inside, other=0.0)
            mean = tl.load(mean_ptr + column, mask=inside, other=0.0)
            x = tl.load(x_ptr + b[:, None] * row_stride + column[None, :], mask=here, other=0.0).to(tl.float32)
            normal = (x - mean[None, :]) * inverse[None, :]
            y = normal * scale[None, :] + shift[None, :]
            dy = tl.load(mixing_ptr + k) * grad * slope(y, (CODES >> (2 * k)) & 3)
            added = added + (
                sums[3 * k] + dy * normal,
                sums[3 * k + 1] + dy,
                sums[3 * k + 2] + grad * activate(y, (CODES >> (2 * k)) & 3),
            )
        sums = added
    split = tl.program_id(1).to(tl.int64) * 3 * NUM * width
    for k in tl.static_range(NUM):
        for n in tl.static_range(3):
            tl.store(partial_ptr + split + (n * NUM + k) * width + d, tl.sum(sums[3 * k + n], 0), mask=inside)


@kernel
@no_type_check
def mixed_backward(
    grad_ptr, x_ptr, mixing_ptr, scale_ptr, shift_ptr, mean_ptr, variance_ptr, dscale_ptr, dshift_ptr, dx_ptr,
    batch, width, row_stride, epsilon,
    TRAINING: tl.constexpr, NUM: tl.constexpr, CODES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of x. Unless TRAINING the statistics are constants, and no row's gradient reaches another's."""
    b = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = d < width
    here = (b < batch)[:, None] & inside[None, :]
    grad = tl.load(grad_ptr + b[:, None] * width + d[None, :], mask=here, other=0.0).to(tl.float32)
    for k in tl.static_range(NUM):
        column = k * width + d
        inverse = tl.rsqrt(tl.load(variance_ptr + column, mask=inside, other=1.0) + epsilon)
        scale = tl.load(scale_ptr + column, mask=inside, other=0.0)
        shift = tl.load(shift_ptr + column, mask=inside, other=0.0)
        mean = tl.load(mean_ptr + column, mask=inside, other=0.0)
        x = tl.load(x_ptr + b[:, None] * row_stride + column[None, :], mask=here, other=0.0).to(tl.float32)
        normal = (x - mean[None, :]) * inverse[None, :]
        slopes = slope(normal * scale[None, :] + shift[None, :], (CODES >> (2 * k)) & 3)
        dy = tl.load(mixing_ptr + k) * grad * slopes
        if TRAINING:
            dscale = tl.load(dscale_ptr + column, mask=inside, other=0.0) / batch
            dshift = tl.load(dshift_ptr + column, mask=inside, other=0.0) / batch
            dy = dy - dshift[None, :] - normal * dscale[None, :]
        dx = (scale * inverse)[None, :] * dy
        tl.store(dx_ptr + (b[:, None] * NUM + k) * width + d[None, :], dx.to(dx_ptr.dtype.element_ty), mask=here)
