"""The mixed operation of a searched MLP layer: y = sum_k w_k act_k(BatchNorm_k(x_k)), statistics included.

The K parallel linears of a layer are one matrix product, so their outputs arrive stacked as (B, K, D). Eager PyTorch
reads and writes them a dozen times; here they are read for the statistics, read for the mix, and (B, D) is written.
Backward recomputes the activations from x. Source: the layer of the NASiam supernet (Heuillet et al. 2023), after
DARTS (Liu et al. 2019), equation 2; gradients of batch normalisation as in Ioffe & Szegedy 2015, section 3.

Names: B batch, K candidates, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, room_for, way
from naslab.kernels._mixed_programs import (
    batch_statistics,
    join_statistics,
    mixed_backward,
    mixed_forward,
    mixed_reductions,
)
from naslab.kernels._triton import Launch, ceil_div, launch

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
