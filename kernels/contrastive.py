"""Contrastive losses without the matrix of similarities in memory: SimCLR's NT-Xent and MoCo's InfoNCE.

    loss = mean over rows i of  log(sum over j of exp(a_i . b_j / t)) - a_i . positive_i / t

NT-Xent (Chen et al. 2020, equation 1): a = b = the 2B normalised embeddings of a batch, j runs over all but i, the
positive is the other view. InfoNCE (He et al. 2020, equation 1): a = queries, the positive is the query's key, j runs
over it and the K keys of a queue. Similarities are made tile by tile and folded into a running maximum and sum
(Milakov & Gimelshein 2018), so that memory grows with the rows, not with rows times columns.

Backward of NT-Xent makes the tiles again: with w_ij = exp(s_ij - lse_i) + exp(s_ij - lse_j), less 2 at the positive
and 0 at i = j, dz_i = sum_j w_ij z_j / (2B t); w is symmetric, so one pass that owns rows is enough. InfoNCE has no
gradient for its queue, and all that the one for the query needs is the softmax-weighted mean of the queue, which the
forward takes along (as in attention): two products in all instead of three.

Names: N rows (2B in NT-Xent), M columns, D width, K keys in the queue, t temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, no_type_check

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels import _native
from naslab.kernels._check import require
from naslab.kernels._dispatch import differentiable, fused, gradients, way
from naslab.kernels._triton import Launch, architecture, ceil_div, interpreting, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

NT_XENT_CROSSOVER = 2**18
"""Similarities from which the C++ loops win on a CPU (`naslab bench kernels`): 512 rows, a batch of 256."""
INFO_NCE_CROSSOVER = 2**19
LAUNCH = {"any": Launch(64, rows=64, num_warps=4), "gfx": Launch(32, rows=32, num_warps=4)}
SMALL = {"any": Launch(16, rows=32, num_warps=4), "gfx": Launch(16, rows=32, num_warps=4)}
"""For float32 and for rows of several chunks, which take more registers."""
CHUNK = 128
"""Features of a row that a program holds at once; half as many in float32."""
STAGES = 2
TILE = 256
"""Rows of a tile on the CPU, and columns of NT-Xent's; with QUEUE_TILE it stays in the second-level cache."""
QUEUE_TILE = 1024
LOG2_E = 1.4426950408889634


def reference_nt_xent(z_ND: Tensor, temperature: float) -> Tensor:
    """The definition of NT-Xent for unit rows, the first views before the second ones."""
    rows = len(z_ND)
    similarity_NN = (z_ND @ z_ND.T / temperature).fill_diagonal_(float("-inf"))
    positive_N = torch.arange(rows, device=z_ND.device).roll(rows // 2)
    return F.cross_entropy(similarity_NN, positive_N, reduction="sum") / max(rows, 1)


def reference_info_nce(query_BD: Tensor, key_BD: Tensor, queue_KD: Tensor, temperature: float, _: bool) -> Tensor:
    """The definition of InfoNCE."""
    positive_B1 = (query_BD * key_BD).sum(1, keepdim=True)
    logits = torch.cat([positive_B1, query_BD @ queue_KD.T], dim=1) / temperature
    first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, first, reduction="sum") / max(len(logits), 1)


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
    a_ptr, b_ptr, lse_ptr, mean_ptr, num_rows, num_columns, width, share, scale,
    EXCLUDE: tl.constexpr, ATTEND: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of a tile of rows over a share of the columns (without the row's own if EXCLUDE), and, if ATTEND,
    one chunk of the softmax-weighted mean of these columns. `scale` is log2(e) / temperature.
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
            seen = seen & (row[:, None] != (tl.arange(0, BLOCK) + (column - first_row).to(tl.int32))[None, :])
        s = tl.where(seen, s * scale, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(s - base[:, None])
        fade = tl.exp2(top - base)
        total = total * fade + tl.sum(p, 1)
        if ATTEND:
            mean = tl.dot(p.to(b.dtype), b, mean * fade[:, None], input_precision=PRECISION)
        top = higher
    some = total != 0.0  # false where the only column was the row's own
    total = tl.where(some, total, 1.0)
    lse = tl.where(some, (top + tl.log2(total)) / 1.4426950408889634, float("-inf"))
    split = tl.program_id(1).to(tl.int64) * num_rows
    tl.store(lse_ptr + split + first_row + row, lse, mask=(row < num_rows - first_row) & (tl.program_id(2) == 0))
    if ATTEND:
        store_rows(
            mean_ptr + split * width, mean / total[:, None], first_row, num_rows, feature, width, ROWS, CHUNK
        )  # fmt: skip


@kernel
@no_type_check
def nt_xent_backward(
    z_ptr, lse_ptr, dz_ptr, num_rows, half, width, share, scale,
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
        w = tl.where(positive[:, None] == column[None, :], w - 2.0, w)
        seen = (row < num_rows)[:, None] & (column < num_rows)[None, :] & (row[:, None] != column[None, :])
        dz = tl.dot(tl.where(seen, w, 0.0).to(b.dtype), b, dz, input_precision=PRECISION)
    split = tl.program_id(1).to(tl.int64) * num_rows
    store_rows(dz_ptr + split * width, dz, first_row, num_rows, feature, width, ROWS, CHUNK)


LOOPS = """
template <bool keep> static float sum_exp(float* s, int64_t n, float scale, float top) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < n; ++c) {
    const float p = fast_exp(s[c] * scale - top);
    if (keep) s[c] = p;
    total += p;
  }
  return total;
}

static float highest(const float* s, int64_t n, float scale, float top) {
#pragma omp simd reduction(max : top)
  for (int64_t c = 0; c < n; ++c) top = s[c] * scale > top ? s[c] * scale : top;
  return top;
}

// Fold a tile into the running maximum and sum of its rows, leaving out column r + diagonal of row r. With a width,
// the tile becomes the weights, and the rows of `mean` fade to the new maximum.
extern "C" void fold_rows(float* tile, float* tops, float* sums, float* mean, int64_t R, int64_t C, int64_t width,
                          int64_t diagonal, double inverse_temperature, int64_t threads) {
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < R; ++r) {
    float* s = tile + r * C;
    const int64_t own = r + diagonal;
    const bool excluded = own >= 0 && own < C;
    const int64_t before = excluded ? own : C, after = excluded ? own + 1 : C;
    if (before + C - after == 0) continue;
    const float top = highest(s + after, C - after, scale, highest(s, before, scale, tops[r]));
    const float fade = fast_exp(tops[r] - top);
    if (width) {
      for (int64_t d = 0; d < width; ++d) mean[r * width + d] *= fade;
      sums[r] = sums[r] * fade + sum_exp<true>(s, before, scale, top);
      sums[r] += sum_exp<true>(s + after, C - after, scale, top);
    } else {
      sums[r] = sums[r] * fade + sum_exp<false>(s, before, scale, top);
      sums[r] += sum_exp<false>(s + after, C - after, scale, top);
    }
    tops[r] = top;
  }
}

// The same of the columns: the other half of a symmetric matrix.
extern "C" void fold_columns(const float* tile, float* tops, float* sums, int64_t R, int64_t C,
                             double inverse_temperature, int64_t threads) {
  constexpr int64_t W = 64;
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t start = 0; start < C; start += W) {
    const int64_t n = std::min(W, C - start);
    float top[W], total[W];
    for (int64_t c = 0; c < n; ++c) top[c] = tops[start + c];
    for (int64_t r = 0; r < R; ++r) {
      const float* s = tile + r * C + start;
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) top[c] = s[c] * scale > top[c] ? s[c] * scale : top[c];
    }
    for (int64_t c = 0; c < n; ++c) total[c] = sums[start + c] * fast_exp(tops[start + c] - top[c]);
    for (int64_t r = 0; r < R; ++r) {
      const float* s = tile + r * C + start;
#pragma omp simd
      for (int64_t c = 0; c < n; ++c) total[c] += fast_exp(s[c] * scale - top[c]);
    }
    for (int64_t c = 0; c < n; ++c) { tops[start + c] = top[c]; sums[start + c] = total[c]; }
  }
}

// Similarities of rows from `row` and columns from `column` become the weights w of the backward pass.
extern "C" void weights(float* tile, const float* lse, int64_t R, int64_t C, int64_t row, int64_t column, int64_t N,
                        double inverse_temperature, int64_t threads) {
  const float scale = static_cast<float>(inverse_temperature);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < R; ++r) {
    float* s = tile + r * C;
    const float mine = lse[row + r];
    const float* others = lse + column;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      const float logit = s[c] * scale;
      s[c] = fast_exp(logit - mine) + fast_exp(logit - others[c]);
    }
    const int64_t own = row + r - column, positive = (row + r + N / 2) % N - column;
    if (positive >= 0 && positive < C) s[positive] -= 2;
    if (own >= 0 && own < C) s[own] = 0;
  }
}
"""


@torch.library.custom_op("naslab::nt_xent", mutates_args=())
def _nt_xent(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    path = way(z, LOOPS)
    if path == "reference" or not len(z):
        return reference_nt_xent(z, temperature), z.new_zeros(len(z), dtype=torch.float32)
    if path == "native":
        lse_N = _symmetric_logsumexp(z, temperature)
    else:
        lse_N = _forward_kernel(z, z, temperature, exclude=True)[0].logsumexp(0)
    first, second = z.chunk(2)
    positives = (first.float() * second.float()).sum() * (2 / temperature)
    return ((lse_N.sum() - positives) / len(z)).to(z.dtype), lse_N


@_nt_xent.register_fake
def _(z: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return z.new_empty(()), z.new_empty(z.shape[0], dtype=torch.float32)


@torch.library.custom_op("naslab::nt_xent_backward", mutates_args=())
def _nt_xent_backward(grad: Tensor, lse: Tensor, z: Tensor, temperature: float) -> tuple[Tensor]:
    path, dtype = way(z, LOOPS), z.dtype
    if path == "reference" or not z.numel():
        (back,) = gradients(reference_nt_xent, 1, grad, z, temperature)
        return (back.contiguous(),)
    factor = grad.float() / (temperature * len(z))
    if path == "native":
        return (_symmetric_backward(z, lse, temperature).mul_(factor),)
    z = _multipliable(z)
    (rows, width), tiles = z.shape, _Tiles(z, len(z), partial_width=z.shape[1])
    dz = z.new_empty(tiles.splits, rows, width, dtype=torch.float32)
    nt_xent_backward[tiles.grid(tiles.chunks)](
        z, lse, dz, rows, rows // 2, width, tiles.share, LOG2_E / temperature, **tiles.constants
    )
    return ((dz.sum(0) * factor).to(dtype),)


@_nt_xent_backward.register_fake
def _(grad: Tensor, lse: Tensor, z: Tensor, temperature: float) -> tuple[Tensor]:
    return (torch.empty_like(z),)


@torch.library.custom_op("naslab::info_nce", mutates_args=())
def _info_nce(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float, attend: bool
) -> tuple[Tensor, Tensor, Tensor]:
    path = way(query, LOOPS)
    size = (len(query) if attend else 0, query.shape[1])
    mean = query.new_zeros(size, dtype=torch.float32)
    if path == "reference":
        loss = reference_info_nce(query, key, queue, temperature, attend)
        return loss, mean, query.new_zeros(len(query), dtype=torch.float32)
    positive_N = (query.float() * key.float()).sum(1) / temperature
    if not (len(query) and len(queue)):
        return positive_N.sum().to(query.dtype) * 0, mean, torch.zeros_like(positive_N)
    if path == "native":
        negatives_N = _queue_logsumexp(query, queue, temperature, mean)
        lse_N = torch.logaddexp(negatives_N, positive_N)
        mean *= (negatives_N - lse_N).exp_()[: size[0], None]
    else:
        partial, means = _forward_kernel(query, queue, temperature, attend=attend)
        lse_N = torch.logaddexp(partial.logsumexp(0), positive_N)
        if attend:
            mean = (means * (partial - lse_N).exp_()[..., None]).sum(0)
    negative_log_N = lse_N - positive_N
    return negative_log_N.mean().to(query.dtype), mean, torch.expm1(-negative_log_N)


@_info_nce.register_fake
def _(query: Tensor, key: Tensor, queue: Tensor, temperature: float, attend: bool) -> tuple[Tensor, Tensor, Tensor]:
    mean = query.new_empty(query.shape[0] if attend else 0, query.shape[1], dtype=torch.float32)
    return query.new_empty(()), mean, query.new_empty(query.shape[0], dtype=torch.float32)


@torch.library.custom_op("naslab::info_nce_backward", mutates_args=())
def _info_nce_backward(
    grad: Tensor, mean: Tensor, residual: Tensor, query: Tensor, key: Tensor, queue: Tensor, temperature: float,
    attend: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if way(query, LOOPS) == "reference" or not query.numel():
        back = gradients(reference_info_nce, 2, grad, query, key, queue, temperature, attend)
        return back[0].contiguous(), back[1].contiguous()
    if not attend:  # a gradient that the forward could not foresee
        _, mean, residual = _info_nce(query, key, queue, temperature, True)
    factor_N1 = (residual * (grad.float() / (temperature * len(query))))[:, None]
    dquery = mean * (grad.float() / (temperature * len(query))) + factor_N1 * key
    return dquery.to(query.dtype), (factor_N1 * query).to(key.dtype)


@_info_nce_backward.register_fake
def _(
    grad: Tensor, mean: Tensor, residual: Tensor, query: Tensor, key: Tensor, queue: Tensor, temperature: float,
    attend: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(query), torch.empty_like(key)


class _Tiles:
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


def _forward_kernel(
    a: Tensor, b: Tensor, temperature: float, exclude: bool = False, attend: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp (splits, N) over each share of the columns, and their weighted means (splits, N, D)."""
    a, b = _multipliable(a), _multipliable(b)
    tiles = _Tiles(a, len(b), partial_width=a.shape[1] if attend else 1)
    lse = a.new_empty(tiles.splits, len(a), dtype=torch.float32)
    mean = a.new_empty(*lse.shape, a.shape[1], dtype=torch.float32) if attend else lse
    contrast_forward[tiles.grid(tiles.chunks if attend else 1)](
        a, b, lse, mean, len(a), *b.shape, tiles.share, LOG2_E / temperature,
        EXCLUDE=exclude, ATTEND=attend, **tiles.constants,
    )  # fmt: skip
    return lse, mean


def _multipliable(rows: Tensor) -> Tensor:
    """Triton's interpreter multiplies the bit patterns of bfloat16 as if they were integers: float32 there."""
    return rows.float() if interpreting() and rows.dtype == torch.bfloat16 else rows


def _parts(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _tile(buffer: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Products of all rows, in the buffer."""
    tile = buffer[: len(a) * len(b)].view(len(a), len(b))
    return torch.mm(a, b.T, out=tile)


def _symmetric_logsumexp(z: Tensor, temperature: float) -> Tensor:
    """Log-sum-exp over all other rows; each tile above the diagonal serves its rows and its columns."""
    tops, sums, buffer = z.new_full((len(z),), float("-inf")), z.new_zeros(len(z)), z.new_empty(TILE * TILE)
    for i in _parts(len(z), TILE):
        for j in _parts(len(z), TILE):
            if j.start < i.start:
                continue
            tile = _tile(buffer, z[i], z[j])
            sizes = (*tile.shape, 0, i.start - j.start, 1 / temperature)
            _native.call(LOOPS, "fold_rows", tile, tops[i], sums[i], sums, *sizes)
            if i.start != j.start:
                _native.call(LOOPS, "fold_columns", tile, tops[j], sums[j], *tile.shape, 1 / temperature)
    return tops + sums.log_()


def _symmetric_backward(z: Tensor, lse: Tensor, temperature: float) -> Tensor:
    """sum_j w_ij z_j; each tile above the diagonal serves its rows and its columns."""
    dz, buffer = torch.zeros_like(z), z.new_empty(TILE * TILE)
    for i in _parts(len(z), TILE):
        for j in _parts(len(z), TILE):
            if j.start < i.start:
                continue
            tile = _tile(buffer, z[i], z[j])
            _native.call(LOOPS, "weights", tile, lse, *tile.shape, i.start, j.start, len(z), 1 / temperature)
            dz[i].addmm_(tile, z[j])
            if i.start != j.start:
                dz[j].addmm_(tile.T, z[i])
    return dz


def _queue_logsumexp(query: Tensor, queue: Tensor, temperature: float, mean: Tensor) -> Tensor:
    """Log-sum-exp over the queue; where `mean` has rows it receives the softmax-weighted mean of the queue."""
    tops, sums = query.new_full((len(query),), float("-inf")), query.new_zeros(len(query))
    buffer, width = query.new_empty(TILE * QUEUE_TILE), mean.shape[1] if len(mean) else 0
    for j in _parts(len(queue), QUEUE_TILE):
        for i in _parts(len(query), TILE):
            tile = _tile(buffer, query[i], queue[j])
            sizes = (*tile.shape, width, tile.shape[1], 1 / temperature)
            _native.call(LOOPS, "fold_rows", tile, tops[i], sums[i], mean[i], *sizes)
            if width:
                mean[i].addmm_(tile, queue[j])
    if width:
        mean /= sums[:, None]
    return tops + sums.log_()


_nt_xent_operation = differentiable("nt_xent", reference_nt_xent, leading=1)
_info_nce_operation = differentiable("info_nce", reference_info_nce, leading=2)


def nt_xent(z_a_BD: Tensor, z_b_BD: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy over the 2B views of a batch (SimCLR, equation 1), a scalar.

    Args:
        z_a_BD: embeddings of the first views, floating point; normalised here, as the equation has it.
        z_b_BD: those of the second views, row by row of the same images.
        temperature: above 0.

    Raises:
        ValueError: an argument's shape, dtype or value does not fit.
    """
    _check_rows(z_a_BD, "z_a_BD")
    same = z_b_BD.shape == z_a_BD.shape and z_b_BD.is_floating_point()
    require(same, "z_b_BD", z_b_BD, f"a floating {tuple(z_a_BD.shape)}")
    _check_temperature(temperature)
    z_ND = F.normalize(torch.cat([z_a_BD, z_b_BD]), dim=1)
    if fused(z_ND, _elements(z_ND, len(z_ND), NT_XENT_CROSSOVER), LOOPS):
        loss: Tensor = _nt_xent_operation(z_ND.contiguous(), float(temperature))[0]
        return loss
    return reference_nt_xent(z_ND, temperature)


def info_nce(query_BD: Tensor, key_BD: Tensor, queue_KD: Tensor, temperature: float) -> Tensor:
    """Cross entropy of each query's key among it and the keys of a queue (MoCo, equation 1), a scalar.

    Rows are taken as they are, as the equation has it: MoCo normalises queries and keys. dtypes are promoted.

    Args:
        query_BD: floating point.
        key_BD: the positive of each query.
        queue_KD: the negatives of all; they get no gradient.
        temperature: above 0.

    Raises:
        ValueError: an argument's shape, dtype or value does not fit.
    """
    _check_rows(query_BD, "query_BD")
    same = key_BD.shape == query_BD.shape and key_BD.is_floating_point()
    require(same, "key_BD", key_BD, f"a floating {tuple(query_BD.shape)}")
    width = query_BD.shape[1]
    fits = queue_KD.ndim == 2 and queue_KD.shape[1] == width and queue_KD.is_floating_point()
    require(fits, "queue_KD", queue_KD, f"a floating (K, {width})")
    _check_temperature(temperature)
    dtype = torch.promote_types(torch.promote_types(query_BD.dtype, key_BD.dtype), queue_KD.dtype)
    query, key, queue = (t.to(dtype) for t in (query_BD, key_BD, queue_KD.detach()))
    attend = torch.is_grad_enabled() and (query_BD.requires_grad or key_BD.requires_grad)
    if fused(query, _elements(query, len(queue), INFO_NCE_CROSSOVER), LOOPS):
        tensors = (t.contiguous() for t in (query, key, queue))
        loss: Tensor = _info_nce_operation(*tensors, float(temperature), attend)[0]
        return loss
    return reference_info_nce(query, key, queue, temperature, attend)


def _elements(rows: Tensor, columns: int, similarities: int) -> int:
    """Elements of the rows from which there are so many similarities."""
    return similarities * rows.shape[1] // max(columns, 1)


def _check_rows(tensor: Tensor, name: str) -> None:
    require(tensor.ndim == 2 and tensor.is_floating_point(), name, tensor, "a floating (batch, width)")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not above 0")


def contraction_flops(rows: int, columns: int, width: int, products: int) -> int:
    """FLOPs of the products: NT-Xent takes 1 forward and 2 backward, InfoNCE 1, and 1 more for its gradient."""
    return 2 * products * rows * columns * width


def pointwise_flops(rows: int, columns: int, backward: bool = False) -> int:
    """FLOPs of scale and softmax, as of attention: 6 a similarity, 12 where NT-Xent's backward makes weights of it."""
    return rows * columns * (12 if backward else 6)


def traffic_bytes(rows: int, columns: int, width: int, element_bytes: int, gradients: int = 0) -> int:
    """Bytes that must move: rows and columns once (columns 0 where they are the rows), and the gradients' rows."""
    return (rows + columns + gradients) * width * element_bytes
