"""The mixed operation of a searched MLP layer: y = sum_k w_k act_k(BatchNorm_k(x_k)), statistics included.

The K parallel linears of a layer are one matrix product, so their outputs arrive stacked as (B, K, D). Eager PyTorch
reads and writes them a dozen times; here they are read for the statistics, read for the mix, and (B, D) is written.
Backward recomputes the activations from x. Source: the layer of the NASiam supernet (Heuillet et al. 2023), after
DARTS (Liu et al. 2019), equation 2; gradients of batch normalisation as in Ioffe & Szegedy 2015, section 3.

Names: B batch, K candidates, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, no_type_check

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, room_for, way
from naslab.kernels._triton import Launch, ceil_div, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "elu": F.elu,
}
"""The activations that may be mixed, by the name they carry in a genotype."""

CODES = {name: code for code, name in enumerate(ACTIVATIONS)}
MOST_PACKED = 31
"""Candidates whose codes of two bits fit an int64; more take the reference."""
CROSSOVER = 8_192
"""Elements from which the C++ loops win on a CPU (`naslab bench kernels`)."""
LAUNCH = {"any": Launch(32, rows=32), "gfx": Launch(32, rows=32, num_warps=4)}
STATISTICS = {"any": Launch(128, rows=16), "gfx": Launch(128, rows=16)}
REDUCED = {"any": Launch(128, rows=4), "gfx": Launch(128, rows=4)}
PROGRAMS = 1024
"""From which a GPU is full: some seven for each of its 132 or 148 multiprocessors."""
LEAST_SHARE = 128
"""Samples of which a program sums: three sums of each feature then are little beside what it reads."""


@full_precision
def reference(
    x_BKD: Tensor,
    mixing_K: Tensor,
    scale_KD: Tensor,
    shift_KD: Tensor,
    mean_KD: Tensor,
    variance_KD: Tensor,
    activations: list[int],
    epsilon: float,
    training: bool,
) -> Tensor:
    """The definition; in training mean and variance are the batch's own."""
    statistics = None if training else (mean_KD, variance_KD)
    return _reference_with_statistics(x_BKD, mixing_K, scale_KD, shift_KD, statistics, activations, epsilon)[0]


@full_precision
def _reference_with_statistics(
    x_BKD: Tensor,
    mixing_K: Tensor,
    scale_KD: Tensor,
    shift_KD: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    activations: list[int],
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = x_BKD.shape[1:]
    if x_BKD.numel():
        mean, variance = (None, None) if statistics is None else (s.flatten() for s in statistics)
        y_BE, mean_E, inverse_E = torch.native_batch_norm(
            x_BKD.flatten(1), scale_KD.flatten(), shift_KD.flatten(), mean, variance, statistics is None, 0.0, epsilon
        )
        y_BKD = y_BE.reshape(x_BKD.shape)
        statistics = statistics or (mean_E.view(shape), inverse_E.view(shape) ** -2 - epsilon)
    else:
        y_BKD = x_BKD * scale_KD + shift_KD
        statistics = statistics or (torch.zeros_like(scale_KD), torch.ones_like(scale_KD))
    functions = list(ACTIVATIONS.values())
    activated = [functions[code](y_BKD[:, k]) for k, code in enumerate(activations)]
    output = torch.einsum("kbd,k->bd", torch.stack(activated), mixing_K.to(y_BKD.dtype))
    return output, *statistics


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


LOOPS = "mixed_activation.cpp"


@torch.library.custom_op("naslab::mixed_activation", mutates_args=())
def _forward(
    x: Tensor,
    mixing: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    activations: list[int],
    epsilon: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    path = way(x, LOOPS)
    mean = mean.float().clone(memory_format=torch.contiguous_format)
    variance = variance.float().clone(memory_format=torch.contiguous_format)
    if path == "reference":
        statistics = None if training else (mean.to(x.dtype), variance.to(x.dtype))
        out, mean, variance = _reference_with_statistics(x, mixing, scale, shift, statistics, activations, epsilon)
        return out.contiguous(), mean.float(), variance.float()
    out = x.new_empty(x.shape[0], x.shape[2])
    if training and not out.numel():
        return out, mean, variance
    arguments = (x, mixing.float(), scale.float(), shift.float(), mean, variance)
    if path == "native":
        sizes = (*x.shape, x.stride(0), _packed(activations))
        _native.call(LOOPS, "mixed_forward", *arguments, out, *sizes, epsilon, int(training))
        return out, mean, variance
    if training:
        _statistics(x, mean, variance)
    if out.numel():
        (batch, num, width), size = x.shape, launch("mixed_activation", x.device, LAUNCH)
        mixed_forward[(ceil_div(width, size.block), ceil_div(batch, size.rows))](
            *arguments, out, batch, width, x.stride(0), epsilon, NUM=num, CODES=_packed(activations),
            ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
    return out, mean, variance


def _statistics(x: Tensor, mean: Tensor, variance: Tensor) -> None:
    (batch, num, width), size = x.shape, launch("batch_statistics", x.device, STATISTICS)
    columns, joined = ceil_div(width, size.block), 256
    share, splits = _shares(batch, size.rows, columns * num)
    partial = mean.new_empty(splits, 2, num, width)
    batch_statistics[(columns, num, splits)](
        x, partial, batch, width, x.stride(0), share,
        NUM=num, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
    )  # fmt: skip
    join_statistics[(ceil_div(num * width, joined),)](partial, mean, variance, batch, num * width, share, BLOCK=joined)


def _shares(batch: int, rows: int, programs: int) -> tuple[int, int]:
    """Samples of a share of the batch, and how many shares fill a GPU where so many programs walk each."""
    splits = max(1, min(ceil_div(PROGRAMS, programs), ceil_div(batch, LEAST_SHARE)))
    share = ceil_div(ceil_div(batch, splits), rows) * rows
    return share, ceil_div(batch, share)


@_forward.register_fake
def _(
    x: Tensor,
    mixing: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    activations: list[int],
    epsilon: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[1:], dtype=torch.float32)
    return x.new_empty(x.shape[0], x.shape[2]), statistics, torch.empty_like(statistics)


@torch.library.custom_op("naslab::mixed_activation_backward", mutates_args=())
def _backward(
    grad: Tensor,
    batch_mean: Tensor,
    batch_variance: Tensor,
    x: Tensor,
    mixing: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    activations: list[int],
    epsilon: float,
    training: bool,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    path = way(x, LOOPS)
    if path == "reference":
        inputs = (x, mixing, scale, shift, mean.to(x.dtype), variance.to(x.dtype), activations, epsilon, training)
        dx, dmixing, dscale, dshift = fallback(reference, _together(needed), grad, *inputs)
        return dx, dmixing, dscale, dshift
    dx = room_for(x, needed[0])
    sums = tuple(torch.zeros_like(batch_mean) for _ in range(3))  # of scale, shift and, by feature, mixing weights
    arguments = (grad, x, mixing.float(), scale.float(), shift.float(), batch_mean, batch_variance)
    sizes = (x.stride(0), _packed(activations), epsilon, training)
    if x.numel() and path == "native":
        loops_sizes = (*x.shape, *sizes[:3], int(training))
        _native.call(LOOPS, "mixed_backward", *arguments, dx, *sums, *loops_sizes)
    elif x.numel():
        _triton_backward(arguments, dx, sums, *sizes, needed)
    if not any(needed[1:]):
        return dx, mixing.new_empty(0), scale.new_empty(0), shift.new_empty(0)
    return dx, sums[2].sum(1).to(mixing.dtype), sums[0].to(scale.dtype), sums[1].to(shift.dtype)


@_backward.register_fake
def _(
    grad: Tensor,
    batch_mean: Tensor,
    batch_variance: Tensor,
    x: Tensor,
    mixing: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    activations: list[int],
    epsilon: float,
    training: bool,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dmixing, dscale, dshift = map(room_for, (x, mixing, scale, shift), _together(needed))
    return dx, dmixing, dscale, dshift


def _together(needed: list[bool]) -> list[bool]:
    """The gradients of the mixing weights, scale and shift come from the same sums."""
    return [needed[0], *[any(needed[1:])] * 3]


def _triton_backward(
    arguments: tuple[Tensor, ...], dx: Tensor, sums: tuple[Tensor, ...], stride: int, codes: int, epsilon: float,
    training: bool, needed: list[bool],
) -> None:  # fmt: skip
    """Fills dx and, where they are needed, the sums."""
    x = arguments[1]
    (batch, num, width), sizes = x.shape, (x.shape[0], x.shape[2], stride, epsilon)
    if any(needed[1:]) or (training and needed[0]):
        size = launch("mixed_reductions", x.device, REDUCED)
        columns = ceil_div(width, size.block)
        share, splits = _shares(batch, size.rows, columns)
        partial = sums[0].new_empty(splits, 3, num, width)
        mixed_reductions[(columns, splits)](
            *arguments, partial, *sizes, share,
            NUM=num, CODES=codes, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
        for whole, part in zip(sums, partial.sum(0), strict=True):
            whole.copy_(part)
    if needed[0]:
        size = launch("mixed_activation", x.device, LAUNCH)
        mixed_backward[(ceil_div(width, size.block), ceil_div(batch, size.rows))](
            *arguments, sums[0], sums[1], dx, *sizes, TRAINING=training,
            NUM=num, CODES=codes, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip


_operation = differentiable("mixed_activation", reference, leading=4)


class Mixed(NamedTuple):
    """Output (B, D), and the statistics (K, D) that normalised it: mean and biased variance, without gradient."""

    output: Tensor
    mean_KD: Tensor
    variance_KD: Tensor


def mixed_activation(
    x_BKD: Tensor,
    mixing_K: Tensor,
    scale_KD: Tensor,
    shift_KD: Tensor,
    activations: tuple[str, ...],
    statistics: tuple[Tensor, Tensor] | None = None,
    epsilon: float = 1e-5,
) -> Mixed:
    """Normalise and activate K candidates and mix them into one output; deterministic.

    Args:
        x_BKD: outputs of the K parallel linears, floating point.
        mixing_K: one weight per candidate.
        scale_KD: weight of the batch normalisation.
        shift_KD: its bias.
        activations: name of each candidate's activation, a key of ACTIVATIONS.
        statistics: mean and variance (K, D) to normalise by in evaluation; the batch's own when left out.
        epsilon: added to the variance.

    Raises:
        ValueError: shapes that do not agree, or an unknown activation.
    """
    _check(x_BKD, mixing_K, scale_KD, shift_KD, activations, statistics)
    training = statistics is None
    mean_KD, variance_KD = statistics or (torch.zeros_like(scale_KD), torch.ones_like(scale_KD))
    if training and x_BKD.shape[0] == 1:
        raise ValueError("x_BKD: a batch of 1 has no statistics, training needs more than 1 value per channel")
    codes = [CODES[name] for name in activations]
    arguments = (mixing_K, scale_KD, shift_KD, mean_KD, variance_KD, codes, epsilon, training)
    if len(codes) <= MOST_PACKED and fused(x_BKD, CROSSOVER, LOOPS):
        dense = x_BKD.stride()[1:] == (x_BKD.shape[2], 1)
        contiguous = (t.contiguous() if isinstance(t, Tensor) else t for t in arguments)
        return Mixed(*_operation(x_BKD if dense else x_BKD.contiguous(), *contiguous))
    output, mean_KD, variance_KD = _reference_with_statistics(
        x_BKD, mixing_K, scale_KD, shift_KD, statistics, codes, epsilon
    )
    return Mixed(output, mean_KD.detach(), variance_KD.detach())


def _check(
    x_BKD: Tensor,
    mixing_K: Tensor,
    scale_KD: Tensor,
    shift_KD: Tensor,
    activations: tuple[str, ...],
    statistics: tuple[Tensor, Tensor] | None,
) -> None:
    for name in activations:
        if name not in ACTIVATIONS:
            raise ValueError(f"activations: {name!r} is not one of {', '.join(ACTIVATIONS)}")
    k = len(activations)
    fits = x_BKD.ndim == 3 and x_BKD.shape[1] == k and x_BKD.is_floating_point()
    if not fits:
        raise misfit("x_BKD", x_BKD, f"a floating (batch, {k}, features)")
    if mixing_K.shape != (k,):
        raise misfit("mixing_K", mixing_K, f"({k},)")
    named = {"scale_KD": scale_KD, "shift_KD": shift_KD}
    if statistics is not None:
        named |= {"statistics[0]": statistics[0], "statistics[1]": statistics[1]}
    for name, tensor in named.items():
        if tensor.shape != x_BKD.shape[1:]:
            raise misfit(name, tensor, f"{tuple(x_BKD.shape[1:])}")
        same_device(name, tensor, x_BKD)
    same_device("mixing_K", mixing_K, x_BKD)


def _packed(codes: list[int]) -> int:
    """Two bits for each candidate."""
    return sum(code << (2 * k) for k, code in enumerate(codes))


def flops(batch: int, candidates: int, width: int, backward: bool = False) -> int:
    """FLOPs: 8 for the normalisation of an element, 5 for its activation, 2 for the mix; backward twice that."""
    return batch * candidates * width * 15 * (2 if backward else 1)


def traffic_bytes(batch: int, candidates: int, width: int, element_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: read K and write 1; backward read K + 1 and write K."""
    return (2 * candidates + 1 if backward else candidates + 1) * batch * width * element_bytes
