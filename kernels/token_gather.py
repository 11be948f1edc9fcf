"""Gathers visible tokens, and restores them among mask tokens.

Source: He et al. 2022, section 3. The ranks of a mask are the only index that both directions need, so every backward
is a gather too: deterministic, without atomics.

Names: B batch, L tokens, K visible tokens, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import check_indices, misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, room_for, way
from naslab.kernels._triton import Kernel, Launch, ceil_div, kernel, launch
from naslab.kernels.token_mask import TokenMask

if TYPE_CHECKING:
    import triton.language as tl

LOOPS = "token_gather.cpp"
CROSSOVER = 65_536
"""Elements that are moved from which the C++ loops win on a CPU (`naslab bench kernels`)."""
LAUNCH = {"any": Launch(256, num_warps=2), "gfx": Launch(256, num_warps=1)}
BACKWARD = {"any": Launch(256, rows=8, num_warps=4), "gfx": Launch(256, rows=4, num_warps=4)}
PROGRAMS = 4096
"""From which a GPU is full: some thirty for each of its 132 or 148 multiprocessors."""
LEAST_SHARE = 32
"""Samples of which a program sums: its sums then are little beside what it reads."""


def reference_gather(tokens_BLD: Tensor, positions_LD: Tensor, visible_BK: Tensor, rank_BL: Tensor) -> Tensor:
    """The definition; no positions where they are empty."""
    rows = torch.arange(visible_BK.shape[0], device=visible_BK.device)[:, None]
    chosen = tokens_BLD[rows, visible_BK]
    return chosen + positions_LD[visible_BK] if positions_LD.shape[0] else chosen


@full_precision
def reference_restore(
    visible_BKD: Tensor, mask_token_D: Tensor, positions_LD: Tensor, visible_BK: Tensor, rank_BL: Tensor
) -> Tensor:
    """The definition; no positions where they are empty."""
    (b, k, d), length = visible_BKD.shape, rank_BL.shape[1]
    padded = torch.cat([visible_BKD, mask_token_D.expand(b, length - k, d)], 1)
    restored = padded[torch.arange(b, device=rank_BL.device)[:, None], rank_BL]
    return restored + positions_LD if positions_LD.shape[0] else restored


@kernel
@no_type_check
def gather_forward(
    tokens_ptr, positions_ptr, visible_ptr, out_ptr, length, visible, width,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one visible token."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = d < width
    place = tl.load(visible_ptr + row)
    token = tl.load(tokens_ptr + (row // visible * length + place) * width + d, mask=here, other=0.0).to(tl.float32)
    if POSITIONS:
        token += tl.load(positions_ptr + place * width + d, mask=here, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + d, token.to(out_ptr.dtype.element_ty), mask=here)


@kernel
@no_type_check
def gather_backward(
    grad_ptr, rank_ptr, dtokens_ptr, dpositions_ptr, batch, length, visible, width, share,
    TOKENS: tl.constexpr, POSITIONS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one position over a share of the batch, ROWS samples at once; sums by share (workspace)."""
    place, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(split * share, tl.minimum(split * share + share, batch), ROWS):
        b = (start + tl.arange(0, ROWS)).to(tl.int64)
        rank = tl.load(rank_ptr + b * length + place, mask=b < batch, other=0)
        here = (b < batch)[:, None] & (d < width)[None, :]
        seen = here & (rank < visible)[:, None]
        grad = tl.load(grad_ptr + (b * visible + rank)[:, None] * width + d[None, :], mask=seen, other=0.0)
        if POSITIONS:
            summed += grad.to(tl.float32)
        if TOKENS:
            tl.store(dtokens_ptr + (b * length + place)[:, None] * width + d[None, :], grad, mask=here)
    if POSITIONS:
        rows = tl.cast(length, tl.int64) * split + place
        tl.store(dpositions_ptr + rows * width + d, tl.sum(summed, 0), mask=d < width)


@kernel
@no_type_check
def restore_forward(
    tokens_ptr, mask_token_ptr, positions_ptr, rank_ptr, out_ptr, length, visible, width,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one token of the whole sequence."""
    row = tl.program_id(0).to(tl.int64)
    b, place = row // length, row % length
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = d < width
    rank = tl.load(rank_ptr + row)
    source = tokens_ptr + (b * visible + rank) * width if rank < visible else mask_token_ptr
    token = tl.load(source + d, mask=here, other=0.0).to(tl.float32)
    if POSITIONS:
        token += tl.load(positions_ptr + place * width + d, mask=here, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + d, token.to(out_ptr.dtype.element_ty), mask=here)


@kernel
@no_type_check
def restore_backward(
    grad_ptr, rank_ptr, dtokens_ptr, dmask_ptr, dpositions_ptr, batch, length, visible, width, share,
    TOKENS: tl.constexpr, MASK: tl.constexpr, POSITIONS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one position over a share of the batch, ROWS samples at once; sums by share (workspace)."""
    place, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros((ROWS, BLOCK), tl.float32)
    masked = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(split * share, tl.minimum(split * share + share, batch), ROWS):
        b = (start + tl.arange(0, ROWS)).to(tl.int64)
        rank = tl.load(rank_ptr + b * length + place, mask=b < batch, other=0)
        seen = (rank < visible)[:, None]
        here = (b < batch)[:, None] & (d < width)[None, :]
        read = here
        if not (POSITIONS or TOKENS):
            read = here & (seen == 0)
        if not (POSITIONS or MASK):
            read = here & seen
        grad = tl.load(grad_ptr + (b * length + place)[:, None] * width + d[None, :], mask=read, other=0.0)
        if POSITIONS:
            summed += grad.to(tl.float32)
        if MASK:
            masked += tl.where(seen, 0.0, grad.to(tl.float32))
        if TOKENS:
            tl.store(dtokens_ptr + (b * visible + rank)[:, None] * width + d[None, :], grad, mask=here & seen)
    rows = (tl.cast(length, tl.int64) * split + place) * width + d
    if MASK:
        tl.store(dmask_ptr + rows, tl.sum(masked, 0), mask=d < width)
    if POSITIONS:
        tl.store(dpositions_ptr + rows, tl.sum(summed, 0), mask=d < width)


@torch.library.custom_op("naslab::token_gather", mutates_args=())
def _gather(tokens: Tensor, positions: Tensor, visible: Tensor, rank: Tensor) -> Tensor:
    path = way(tokens, LOOPS)
    if path == "reference":
        return reference_gather(tokens, positions, visible, rank)
    (batch, length, width), kept = tokens.shape, visible.shape[1]
    out = tokens.new_empty(batch, kept, width)
    if path == "native":
        sizes = (batch, length, kept, width, int(positions.shape[0] > 0))
        _native.call(LOOPS, "gather_forward", tokens, positions, visible, out, *sizes)
    elif out.numel():
        _launch(gather_forward, batch * kept, width, positions, tokens, positions, visible, out, length, kept)
    return out


@_gather.register_fake
def _(tokens: Tensor, positions: Tensor, visible: Tensor, rank: Tensor) -> Tensor:
    return tokens.new_empty(*visible.shape, tokens.shape[2])


@torch.library.custom_op("naslab::token_gather_backward", mutates_args=())
def _gather_backward(
    grad: Tensor, tokens: Tensor, positions: Tensor, visible: Tensor, rank: Tensor, needed: list[bool]
) -> tuple[Tensor, Tensor]:
    path = way(tokens, LOOPS)
    if path == "reference":
        first, second = fallback(reference_gather, needed, grad, tokens, positions, visible, rank)
        return first, second
    dtokens, dpositions = map(room_for, (tokens, positions), needed)
    if path == "native":
        sizes = (*tokens.shape[:2], visible.shape[1], tokens.shape[2])
        _native.call(LOOPS, "gather_backward", grad, rank, dtokens, dpositions, *sizes)
        return dtokens, dpositions
    summed = bool(dpositions.shape[0])
    if tokens.shape[1] * tokens.shape[2]:
        flags = {"TOKENS": needed[0], "POSITIONS": summed}
        (sums,) = _launch_backward(gather_backward, tokens, visible, (grad, rank, dtokens), (summed,), flags)
        dpositions = sums.sum(0).to(positions.dtype) if summed else dpositions
    return dtokens, dpositions


@_gather_backward.register_fake
def _(
    grad: Tensor, tokens: Tensor, positions: Tensor, visible: Tensor, rank: Tensor, needed: list[bool]
) -> tuple[Tensor, Tensor]:
    return room_for(tokens, needed[0]), room_for(positions, needed[1])


@torch.library.custom_op("naslab::token_restore", mutates_args=())
def _restore(tokens: Tensor, mask_token: Tensor, positions: Tensor, visible: Tensor, rank: Tensor) -> Tensor:
    path = way(tokens, LOOPS)
    if path == "reference":
        return reference_restore(tokens, mask_token, positions, visible, rank)
    (batch, kept, width), length = tokens.shape, rank.shape[1]
    out = tokens.new_empty(batch, length, width)
    if path == "native":
        sizes = (batch, length, kept, width, int(positions.shape[0] > 0))
        _native.call(LOOPS, "restore_forward", tokens, mask_token, positions, rank, out, *sizes)
    elif out.numel():
        arguments = (tokens, mask_token, positions, rank, out, length, kept)
        _launch(restore_forward, batch * length, width, positions, *arguments)
    return out


@_restore.register_fake
def _(tokens: Tensor, mask_token: Tensor, positions: Tensor, visible: Tensor, rank: Tensor) -> Tensor:
    return tokens.new_empty(*rank.shape, tokens.shape[2])


@torch.library.custom_op("naslab::token_restore_backward", mutates_args=())
def _restore_backward(
    grad: Tensor, tokens: Tensor, mask_token: Tensor, positions: Tensor, visible: Tensor, rank: Tensor,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    path = way(tokens, LOOPS)
    if path == "reference":
        inputs = (tokens, mask_token, positions, visible, rank)
        dtokens, dmask, dpositions = fallback(reference_restore, needed, grad, *inputs)
        return dtokens, dmask, dpositions
    (batch, kept, width), length = tokens.shape, rank.shape[1]
    dtokens, dmask, dpositions = map(room_for, (tokens, mask_token, positions), needed)
    if path == "native":
        by_position = tokens.new_empty(length if needed[1] else 0, width)
        sizes = (batch, length, kept, width)
        _native.call(LOOPS, "restore_backward", grad, rank, dtokens, by_position, dpositions, *sizes)
        return dtokens, by_position.sum(0) if needed[1] else dmask, dpositions
    summed = bool(dpositions.shape[0])
    dmask.zero_()
    if length * width:
        flags = {"TOKENS": needed[0], "MASK": needed[1], "POSITIONS": summed}
        outputs = (needed[1], summed)
        masked, sums = _launch_backward(restore_backward, grad, tokens, (grad, rank, dtokens), outputs, flags)
        dmask = masked.sum((0, 1)).to(mask_token.dtype) if needed[1] else dmask
        dpositions = sums.sum(0).to(positions.dtype) if summed else dpositions
    return dtokens, dmask, dpositions


@_restore_backward.register_fake
def _(
    grad: Tensor, tokens: Tensor, mask_token: Tensor, positions: Tensor, visible: Tensor, rank: Tensor,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return room_for(tokens, needed[0]), room_for(mask_token, needed[1]), room_for(positions, needed[2])


def _launch(moved: Kernel, rows: int, width: int, positions: Tensor, *arguments: Tensor | int) -> None:
    size = launch("token_gather", positions.device, LAUNCH)
    moved[(rows, ceil_div(width, size.block))](
        *arguments, width, POSITIONS=positions.shape[0] > 0, BLOCK=size.block, num_warps=size.num_warps
    )


def _launch_backward(
    moved: Kernel, whole: Tensor, visible: Tensor, tensors: tuple[Tensor, ...], summed: tuple[bool, ...],
    flags: dict[str, bool],
) -> list[Tensor]:  # fmt: skip
    """The sums over shares of the batch (shares, L, D) that are asked for; the batch is shared out to fill a GPU."""
    (batch, length, width), kept = whole.shape, visible.shape[1]
    size = launch("token_gather_backward", whole.device, BACKWARD)
    columns = ceil_div(width, size.block)
    splits = max(1, min(ceil_div(PROGRAMS, length * columns), ceil_div(batch, LEAST_SHARE)))
    share = max(ceil_div(ceil_div(batch, splits), size.rows) * size.rows, 1)
    splits = max(ceil_div(batch, share), 1)
    sums = [whole.new_empty(splits if some else 0, length, width, dtype=torch.float32) for some in summed]
    moved[(length, columns, splits)](
        *tensors, *sums, batch, length, kept, width, share,
        **flags, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
    )  # fmt: skip
    return sums


_gather_operation = differentiable("token_gather", reference_gather, leading=2)
_restore_operation = differentiable("token_restore", reference_restore, leading=3)


def gather_visible(tokens_BLD: Tensor, mask: TokenMask, positions_LD: Tensor | None = None) -> Tensor:
    """The visible tokens, with their positions added, (B, K, D); deterministic.

    Raises:
        ValueError: an argument's shape or dtype does not fit.
    """
    batch, length = _check_mask(mask, tokens_BLD)
    fits = tokens_BLD.ndim == 3 and tokens_BLD.shape[:2] == (batch, length) and tokens_BLD.is_floating_point()
    if not fits:
        raise misfit("tokens_BLD", tokens_BLD, f"a floating ({batch}, {length}, D)")
    positions = _positions(positions_LD, tokens_BLD, length)
    tensors = (tokens_BLD, positions, mask.visible_BK, mask.rank_BL)
    if fused(tokens_BLD, CROSSOVER, LOOPS, on_gpu="eager"):
        gathered: Tensor = _gather_operation(*(t.contiguous() for t in tensors))
        return gathered
    return reference_gather(*tensors)


def restore_tokens(
    visible_BKD: Tensor, mask: TokenMask, mask_token_D: Tensor, positions_LD: Tensor | None = None
) -> Tensor:
    """All tokens in their places, a mask token where one was masked, positions added, (B, L, D); deterministic.

    Raises:
        ValueError: an argument's shape or dtype does not fit.
    """
    (batch, _), kept = _check_mask(mask, visible_BKD), mask.visible_BK.shape[1]
    fits = visible_BKD.ndim == 3 and visible_BKD.shape[:2] == (batch, kept) and visible_BKD.is_floating_point()
    if not fits:
        raise misfit("visible_BKD", visible_BKD, f"a floating ({batch}, {kept}, D)")
    width = visible_BKD.shape[2]
    if mask_token_D.shape != (width,):
        raise misfit("mask_token_D", mask_token_D, f"({width},)")
    same_device("mask_token_D", mask_token_D, visible_BKD)
    positions = _positions(positions_LD, visible_BKD, mask.rank_BL.shape[1])
    tensors = (visible_BKD, mask_token_D.to(visible_BKD.dtype), positions, mask.visible_BK, mask.rank_BL)
    if fused(visible_BKD, CROSSOVER, LOOPS, on_gpu="eager"):
        restored: Tensor = _restore_operation(*(t.contiguous() for t in tensors))
        return restored
    return reference_restore(*tensors)


def _positions(positions_LD: Tensor | None, tokens: Tensor, length: int) -> Tensor:
    width = tokens.shape[2]
    if positions_LD is None:
        return tokens.new_empty(0, width)
    if positions_LD.shape != (length, width):
        raise misfit("positions_LD", positions_LD, f"({length}, {width})")
    same_device("positions_LD", positions_LD, tokens)
    return positions_LD.to(tokens.dtype)


def _check_mask(mask: TokenMask, tokens: Tensor) -> tuple[int, int]:
    """Batch and length of a mask whose indices fit together."""
    if mask.rank_BL.ndim != 2 or mask.visible_BK.ndim != 2:
        raise misfit("mask", mask.rank_BL, "ranks (B, L) with visible (B, K)")
    (batch, length), kept = mask.rank_BL.shape, mask.visible_BK.shape[1]
    check_indices("mask.rank_BL", mask.rank_BL, (batch, length), length, tokens)
    check_indices("mask.visible_BK", mask.visible_BK, (batch, kept), length, tokens)
    return batch, length


def flops(rows: int, width: int, positions: bool) -> int:
    """FLOPs: one addition for each element that is moved, none without positions; sums of a backward alike."""
    return rows * width if positions else 0


def traffic_bytes(read_rows: int, written_rows: int, width: int, element_bytes: int) -> int:
    """Bytes that must move: rows read and rows written; positions and indices stay in cache."""
    return (read_rows + written_rows) * width * element_bytes
