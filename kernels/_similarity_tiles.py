"""Tiles of the similarities between two sets of rows, without the full matrix: shared by NT-Xent and InfoNCE.

Similarities are made tile by tile and folded into a running maximum and sum (Milakov & Gimelshein 2018), so that memory
grows with the rows, not with rows times columns.

Names: N rows, M columns, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, no_type_check

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels._check import misfit
from naslab.kernels._dispatch import OnGpu
from naslab.kernels._triton import Launch, architecture, ceil_div, interpreting, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

LAUNCH = {
    "any": Launch(64, rows=64, num_warps=4),
    "sm_90": Launch(32, rows=64, num_warps=4),
    "gfx": Launch(32, rows=32, num_warps=4),
}
SMALL = {"any": Launch(16, rows=32, num_warps=4), "gfx": Launch(16, rows=32, num_warps=4)}
"""For float32 and for rows of several chunks, which take more registers."""
CHUNK = 128
"""Features of a row that a program holds at once; half as many in float32."""
STAGES = 2
TILE = 256
"""Rows of a tile on the CPU."""
LOG2_E = 1.4426950408889634


def on_gpu(rows: Tensor) -> OnGpu:
    """Half precision and rows of one chunk; else a matrix product wins, on an H200 by 2 (float32) to 50 (wide rows)."""
    return "always" if rows.dtype.itemsize == 2 and rows.shape[1] <= CHUNK else "never"


@kernel
@no_type_check
def load_rows(ptr, start, count, feature, width, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """CHUNK features of ROWS rows from `start`, zeros outside. 64 bits for the tile's address, 32 inside the tile."""
    row, d = tl.arange(0, ROWS), tl.arange(0, CHUNK)
    here = (row < count - start)[:, None] & (d < width - feature)[None, :]
    return tl.load(ptr + start * width + feature + row[:, None] * width + d[None, :], mask=here, other=0.0)


@kernel
@no_type_check
def store_rows(ptr, tile, start, count, feature, width, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """The same way back."""
    row, d = tl.arange(0, ROWS), tl.arange(0, CHUNK)
    here = (row < count - start)[:, None] & (d < width - feature)[None, :]
    tl.store(ptr + start * width + feature + row[:, None] * width + d[None, :], tile, mask=here)


@kernel
@no_type_check
def similarities(
    a, b, a_ptr, b_ptr, row, column, num_rows, num_columns, width,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of a tile's rows and columns; a and b hold them where one chunk is the whole width."""
    if CHUNKS == 1:
        s = tl.dot(a, tl.trans(b), input_precision=PRECISION)
    else:
        s = tl.zeros((ROWS, BLOCK), tl.float32)
        for feature in tl.range(0, width, CHUNK, num_stages=1):
            part_a = load_rows(a_ptr, row, num_rows, feature, width, ROWS, CHUNK)
            part_b = load_rows(b_ptr, column, num_columns, feature, width, BLOCK, CHUNK)
            s = tl.dot(part_a, tl.trans(part_b), s, input_precision=PRECISION)
    return s


@kernel
@no_type_check
def contrast_forward(
    a_ptr, b_ptr, lse_ptr, mean_ptr, num_rows, num_columns, half, width, share, scale,
    EXCLUDE: tl.constexpr, ATTEND: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of a tile of rows over a share of the columns (if EXCLUDE without the row's own and the one that lies
    `half` of the rows away, its positive), and, if ATTEND, one chunk of the softmax-weighted mean of these columns.
    `scale` is log2(e) / temperature.
    """
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    feature = tl.program_id(2) * CHUNK
    row = tl.arange(0, ROWS)
    a = load_rows(a_ptr, first_row, num_rows, feature, width, ROWS, CHUNK)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mean = tl.zeros((ROWS, CHUNK), tl.float32)
    first = tl.program_id(1) * share
    for start in tl.range(first, tl.minimum(first + share, num_columns), BLOCK, num_stages=STAGES):
        column = tl.cast(start, tl.int64)
        b = load_rows(b_ptr, column, num_columns, feature, width, BLOCK, CHUNK)
        s = similarities(
            a, b, a_ptr, b_ptr, first_row, column, num_rows, num_columns, width, ROWS, BLOCK, CHUNK, CHUNKS, PRECISION
        )
        seen = (tl.arange(0, BLOCK) < num_columns - start)[None, :]
        if EXCLUDE:
            apart = (tl.arange(0, BLOCK) + (column - first_row).to(tl.int32))[None, :] - row[:, None]
            seen = seen & (apart != 0) & (apart != half) & (apart != -half)
        s = tl.where(seen, s * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(s - base[:, None])
        fade = tl.exp2(top - base)
        total = total * fade + tl.sum(p, 1)
        if ATTEND:
            mean = tl.dot(p.to(b.dtype), b, mean * fade[:, None], input_precision=PRECISION)
        top = higher
    some = total != 0.0  # false where every column was left out
    total = tl.where(some, total, 1.0)
    lse = tl.where(some, (top + tl.log2(total)) / 1.4426950408889634, float("-inf"))
    split = tl.program_id(1).to(tl.int64) * num_rows
    tl.store(lse_ptr + split + first_row + row, lse, mask=(row < num_rows - first_row) & (tl.program_id(2) == 0))
    if ATTEND:
        store_rows(
            mean_ptr + split * width, mean / total[:, None], first_row, num_rows, feature, width, ROWS, CHUNK
        )  # fmt: skip


LOOPS = "_similarity_tiles.cpp"
"""Of both operations, so that a machine compiles once."""


class Tiles:
    """How a grid covers rows, columns and features. The columns are split among programs where the rows alone would
    not fill the device; partial results of `partial_width` floats a row stay under half the matrix that is avoided.
    """

    def __init__(self, a: Tensor, columns: int, partial_width: int) -> None:
        (rows, width), exact = a.shape, a.dtype == torch.float32
        chunk = min(max(16, 1 << max(width - 1, 0).bit_length()), CHUNK)
        if exact:
            chunk = min(chunk, CHUNK // 2)
        name, defaults = ("contrastive", LAUNCH) if width <= chunk and not exact else ("contrastive_small", SMALL)
        size = launch(name, a.device, defaults)
        cuda = a.device.type == "cuda"
        self.chunks = max(ceil_div(width, chunk), 1)
        self.rows = ceil_div(rows, size.rows)
        wanted = 4 * torch.cuda.get_device_properties(a.device).multi_processor_count if cuda else 8
        most = min(ceil_div(columns, size.block), max(columns // max(2 * partial_width, 1), 1))
        splits = max(1, min(ceil_div(wanted, self.rows * self.chunks), most))
        self.share = ceil_div(ceil_div(columns, splits), size.block) * size.block
        self.splits = ceil_div(columns, self.share)
        # Three TF32 products are as exact as one in float32; AMD's matrix cores take float32 itself.
        nvidia = cuda and not architecture(a.device).startswith("gfx")
        self.constants: dict[str, Any] = {
            "ROWS": size.rows, "BLOCK": size.block, "CHUNK": chunk, "CHUNKS": self.chunks, "STAGES": STAGES,
            "PRECISION": "tf32x3" if nvidia else "ieee", "num_warps": size.num_warps,
        }  # fmt: skip

    def grid(self, chunks: int) -> tuple[int, int, int]:
        """Programs, where `chunks` of them share a row's features."""
        return self.rows, self.splits, chunks


def logsumexp_kernel(
    a: Tensor, b: Tensor, temperature: float, negatives: bool = False, attend: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp (splits, N) over each share of the columns, and their weighted means (splits, N, D).

    With `negatives` a row's own column and its positive's are left out.
    """
    a, b = multipliable(a), multipliable(b)
    tiles = Tiles(a, b.shape[0], partial_width=a.shape[1] if attend else 1)
    lse = a.new_empty(tiles.splits, a.shape[0], dtype=torch.float32)
    mean = a.new_empty(*lse.shape, a.shape[1], dtype=torch.float32) if attend else lse
    contrast_forward[tiles.grid(tiles.chunks if attend else 1)](
        a, b, lse, mean, a.shape[0], b.shape[0], a.shape[0] // 2, a.shape[1], tiles.share, LOG2_E / temperature,
        EXCLUDE=negatives, ATTEND=attend, **tiles.constants,
    )  # fmt: skip
    return lse, mean


def above_positive(negatives_N: Tensor, positive_N: Tensor) -> Tensor:
    """Cross entropy of rows from the log-sum-exp of their negatives: exact where it is small, and never negative."""
    return F.softplus(negatives_N - positive_N)


def multipliable(rows: Tensor) -> Tensor:
    """Triton's interpreter multiplies the bit patterns of bfloat16 as if they were integers: float32 there."""
    return rows.float() if interpreting() and rows.dtype == torch.bfloat16 else rows


def parts(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def tile_of(buffer: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Products of all rows, in the buffer."""
    tile = buffer[: a.shape[0] * b.shape[0]].view(a.shape[0], b.shape[0])
    return torch.mm(a, b.T, out=tile)


def elements_from(rows: Tensor, columns: int, similarities: int) -> int:
    """Elements of the rows from which there are so many similarities."""
    return similarities * rows.shape[1] // max(columns, 1)


def check_rows(tensor: Tensor, name: str) -> None:
    if not (tensor.ndim == 2 and tensor.is_floating_point()):
        raise misfit(name, tensor, "a floating (batch, width)")


def check_temperature(temperature: float) -> None:
    if isinstance(temperature, Tensor):
        raise ValueError("temperature: a tensor is not a number, which it must be: it would get no gradient")
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not above 0")
