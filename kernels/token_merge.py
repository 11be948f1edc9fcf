"""Merges matched tokens as means weighted by their sizes, and unmerges them.

A matching is a map from tokens to rows, which makes merge and unmerge each other's adjoints: one collects rows in a
fixed order, the other spreads them, so neither needs atomics. Collecting follows a chain: each row knows its first
token that merges, each such token the next of the same row, so that every token is read once.
Source: Bolya et al. 2023 (ToMe), section 3.1.

Names: B batch, N tokens, R merged, K = N - R rows, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import check_indices, misfit, same_device
from naslab.kernels._dispatch import OnGpu, differentiable, fallback, full_precision, fused, way
from naslab.kernels._triton import Launch, ceil_div, kernel, launch
from naslab.kernels.token_match import Matching

if TYPE_CHECKING:
    import triton.language as tl

CROSSOVER = 98_304
"""Elements of the tokens from which the C++ loops win on a CPU (`naslab bench kernels`)."""
ON_GPU: OnGpu = "never"
"""The chains were not yet measured on a GPU; before them a step of 32 x 1568 tokens took 12.8 ms, eager 1.3 ms."""
CHAINED = {"any": Launch(32, rows=64), "gfx": Launch(32, rows=64)}
COLLECTED = {"any": Launch(256, num_warps=2), "gfx": Launch(256, num_warps=1)}
SPREAD = {"any": Launch(256, num_warps=2), "gfx": Launch(256, num_warps=1)}


@full_precision
def reference_merge(
    tokens_BND: Tensor, sizes_BN: Tensor, kept_BK: Tensor, sources_BR: Tensor, targets_BR: Tensor, row_BN: Tensor
) -> Tensor:
    """The definition."""
    merged_BK = _merged_sizes(sizes_BN, kept_BK, sources_BR, targets_BR)
    share_BN = (sizes_BN / merged_BK.gather(1, row_BN)).to(tokens_BND.dtype)
    return _collect(tokens_BND * share_BN[..., None], kept_BK, sources_BR, targets_BR)


def reference_unmerge(
    merged_BKD: Tensor, kept_BK: Tensor, sources_BR: Tensor, targets_BR: Tensor, row_BN: Tensor
) -> Tensor:
    """The definition."""
    return merged_BKD.gather(1, row_BN[..., None].expand(-1, -1, merged_BKD.shape[2]))


def _collect(x_BND: Tensor, kept_BK: Tensor, sources_BR: Tensor, targets_BR: Tensor) -> Tensor:
    rows, features = torch.arange(kept_BK.shape[0], device=kept_BK.device)[:, None], x_BND.shape[2]
    return x_BND[rows, kept_BK].scatter_add(1, targets_BR[..., None].expand(-1, -1, features), x_BND[rows, sources_BR])


def _merged_sizes(sizes_BN: Tensor, kept_BK: Tensor, sources_BR: Tensor, targets_BR: Tensor) -> Tensor:
    return sizes_BN.gather(1, kept_BK).scatter_add(1, targets_BR, sizes_BN.gather(1, sources_BR))


@kernel
@no_type_check
def chain_sources(
    sizes_ptr, kept_ptr, sources_ptr, targets_ptr, next_ptr, merged_ptr, tokens, rows, merged,
    MEAN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ROWS links of one sample, its rows' and then its sources', the next source of the same row; `merged` where
    there is none. Of a row also the size, if MEAN.
    """
    b = tl.program_id(0).to(tl.int64)
    link = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_row = link < rows
    is_source = (link >= rows) & (link < rows + merged)
    source = link - rows
    row = tl.where(is_row, link, tl.load(targets_ptr + b * merged + source, mask=is_source, other=-1).to(tl.int32))
    found = tl.zeros((ROWS,), tl.int32) + merged
    total = tl.zeros((ROWS,), tl.float32)
    if MEAN:
        own = tl.load(kept_ptr + b * rows + link, mask=is_row, other=0)
        total += tl.load(sizes_ptr + b * tokens + own, mask=is_row, other=0.0).to(tl.float32)
    for start in range(0, merged, BLOCK):
        r = start + tl.arange(0, BLOCK)
        into = tl.load(targets_ptr + b * merged + r, mask=r < merged, other=-2).to(tl.int32)
        joins = into[None, :] == row[:, None]
        after = joins & (is_row[:, None] | (r[None, :] > source[:, None]))
        found = tl.minimum(found, tl.min(tl.where(after, r[None, :], merged), 1))
        if MEAN:
            place = tl.load(sources_ptr + b * merged + r, mask=r < merged, other=0)
            size = tl.load(sizes_ptr + b * tokens + place, mask=r < merged, other=0.0).to(tl.float32)
            total += tl.sum(tl.where(joins, size[None, :], 0.0), 1)
    tl.store(next_ptr + b * (rows + merged) + link, found, mask=is_row | is_source)
    if MEAN:
        tl.store(merged_ptr + b * rows + link, total.to(merged_ptr.dtype.element_ty), mask=is_row)


@kernel
@no_type_check
def collect_rows(
    tokens_ptr, sizes_ptr, kept_ptr, sources_ptr, next_ptr, merged_ptr, out_ptr, tokens, rows, merged, width,
    MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one row: its own token and those of its chain, as their mean or their sum."""
    program = tl.program_id(0).to(tl.int64)
    b, row = program // rows, program % rows
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    chain = next_ptr + b * (rows + merged)
    place = b * tokens + tl.load(kept_ptr + program)
    summed = tl.load(tokens_ptr + place * width + d, mask=d < width, other=0.0).to(tl.float32)
    if MEAN:
        total = tl.load(merged_ptr + program).to(tl.float32)
        summed *= tl.load(sizes_ptr + place).to(tl.float32) / total
    r = tl.load(chain + row)
    while r < merged:
        place = b * tokens + tl.load(sources_ptr + b * merged + r)
        other = tl.load(tokens_ptr + place * width + d, mask=d < width, other=0.0).to(tl.float32)
        if MEAN:
            other *= tl.load(sizes_ptr + place).to(tl.float32) / total
        summed += other
        r = tl.load(chain + rows + r)
    tl.store(out_ptr + program * width + d, summed.to(out_ptr.dtype.element_ty), mask=d < width)


@kernel
@no_type_check
def spread_rows(
    rows_ptr, sizes_ptr, merged_ptr, row_ptr, out_ptr, tokens, rows, width, MEAN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """BLOCK features of one token: its row, times its share of it or whole."""
    program = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = program // tokens * rows + tl.load(row_ptr + program)
    value = tl.load(rows_ptr + row * width + d, mask=d < width, other=0.0).to(tl.float32)
    if MEAN:
        value *= tl.load(sizes_ptr + program).to(tl.float32) / tl.load(merged_ptr + row).to(tl.float32)
    tl.store(out_ptr + program * width + d, value.to(out_ptr.dtype.element_ty), mask=d < width)


LOOPS = "token_merge.cpp"


@torch.library.custom_op("naslab::token_merge", mutates_args=())
def _merge(
    tokens: Tensor, sizes: Tensor, kept: Tensor, sources: Tensor, targets: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    if way(tokens, LOOPS) == "reference":
        merged = reference_merge(tokens, sizes, kept, sources, targets, row)
        return merged, _merged_sizes(sizes, kept, sources, targets)
    return _collected(tokens, sizes, kept, sources, targets, mean=True)


@_merge.register_fake
def _(
    tokens: Tensor, sizes: Tensor, kept: Tensor, sources: Tensor, targets: Tensor, row: Tensor
) -> tuple[Tensor, Tensor]:
    return tokens.new_empty(*kept.shape, tokens.shape[2]), sizes.new_empty(kept.shape)


@torch.library.custom_op("naslab::token_merge_backward", mutates_args=())
def _merge_backward(
    grad: Tensor,
    merged: Tensor,
    tokens: Tensor,
    sizes: Tensor,
    kept: Tensor,
    sources: Tensor,
    targets: Tensor,
    row: Tensor,
) -> Tensor:
    if way(tokens, LOOPS) == "reference":
        return fallback(reference_merge, [True], grad, tokens, sizes, kept, sources, targets, row)[0]
    return _spread(grad, sizes, merged, row, mean=True)


@_merge_backward.register_fake
def _(
    grad: Tensor,
    merged: Tensor,
    tokens: Tensor,
    sizes: Tensor,
    kept: Tensor,
    sources: Tensor,
    targets: Tensor,
    row: Tensor,
) -> Tensor:
    return tokens.new_empty(tokens.shape)


@torch.library.custom_op("naslab::token_unmerge", mutates_args=())
def _unmerge(merged: Tensor, kept: Tensor, sources: Tensor, targets: Tensor, row: Tensor) -> Tensor:
    if way(merged, LOOPS) == "reference":
        return reference_unmerge(merged, kept, sources, targets, row)
    return _spread(merged, None, None, row, mean=False)


@_unmerge.register_fake
def _(merged: Tensor, kept: Tensor, sources: Tensor, targets: Tensor, row: Tensor) -> Tensor:
    return merged.new_empty(*row.shape, merged.shape[2])


@torch.library.custom_op("naslab::token_unmerge_backward", mutates_args=())
def _unmerge_backward(
    grad: Tensor, merged: Tensor, kept: Tensor, sources: Tensor, targets: Tensor, row: Tensor
) -> Tensor:
    if way(merged, LOOPS) == "reference":
        return _collect(grad, kept, sources, targets)
    return _collected(grad, None, kept, sources, targets, mean=False)[0]


@_unmerge_backward.register_fake
def _(grad: Tensor, merged: Tensor, kept: Tensor, sources: Tensor, targets: Tensor, row: Tensor) -> Tensor:
    return merged.new_empty(merged.shape)


def _collected(
    tokens: Tensor, sizes: Tensor | None, kept: Tensor, sources: Tensor, targets: Tensor, mean: bool
) -> tuple[Tensor, Tensor]:
    """Rows from tokens, and the sizes of the rows where the mean is asked (without it nobody reads sizes)."""
    (batch, length, width), rows, num_merged = tokens.shape, kept.shape[1], sources.shape[1]
    weights = tokens if sizes is None else sizes
    out, merged = tokens.new_empty(batch, rows, width), weights.new_empty(batch, rows)
    if way(tokens, LOOPS) == "native":
        exact = merged.float()
        pointers = (tokens, weights.float(), kept, sources, targets, out, exact)
        _native.call(LOOPS, "collect", *pointers, *tokens.shape, rows, num_merged, int(mean))
        return out, exact.to(merged.dtype)
    if batch * rows:
        chain = kept.new_empty(batch, rows + num_merged, dtype=torch.int32)
        size = launch("chain_sources", tokens.device, CHAINED)
        chain_sources[(batch, ceil_div(rows + num_merged, size.rows))](
            weights, kept, sources, targets, chain, merged, length, rows, num_merged,
            MEAN=mean, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
        size = launch("collect_rows", tokens.device, COLLECTED)
        collect_rows[(batch * rows, max(1, ceil_div(width, size.block)))](
            tokens, weights, kept, sources, chain, merged, out, length, rows, num_merged, width,
            MEAN=mean, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
    return out, merged


def _spread(grad: Tensor, sizes: Tensor | None, merged: Tensor | None, row: Tensor, mean: bool) -> Tensor:
    """Tokens from rows."""
    (batch, rows, width), length = grad.shape, row.shape[1]
    out = grad.new_empty(batch, length, width)
    weights = (grad, grad) if sizes is None or merged is None else (sizes, merged)
    if way(grad, LOOPS) == "native":
        exact = (w.float() for w in weights)
        _native.call(LOOPS, "spread", grad, *exact, row, out, batch, length, width, rows, int(mean))
    elif out.numel():
        size = launch("spread_rows", grad.device, SPREAD)
        spread_rows[(batch * length, ceil_div(width, size.block))](
            grad, *weights, row, out, length, rows, width, MEAN=mean, BLOCK=size.block, num_warps=size.num_warps
        )
    return out


_merge_operation = differentiable("token_merge", reference_merge, leading=1)
_unmerge_operation = differentiable("token_unmerge", reference_unmerge, leading=1)


def merge_tokens(tokens_BND: Tensor, sizes_BN: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """The merged rows (B, K, D), means weighted by size, and their sizes (B, K); deterministic.

    Args:
        tokens_BND: floating point.
        sizes_BN: how many tokens each stands for, positive; a constant to gradients.
        matching: from `bipartite_match`.

    Raises:
        ValueError: an argument does not fit.
    """
    batch, length = _check_matching(matching, tokens_BND)
    same_device("sizes_BN", sizes_BN, tokens_BND)
    fits = tokens_BND.ndim == 3 and tokens_BND.shape[:2] == (batch, length) and tokens_BND.is_floating_point()
    if not fits:
        raise misfit("tokens_BND", tokens_BND, f"a floating ({batch}, {length}, D)")
    fits = sizes_BN.shape == (batch, length) and sizes_BN.is_floating_point()
    if not fits:
        raise misfit("sizes_BN", sizes_BN, f"a floating ({batch}, {length})")
    tensors = (tokens_BND, sizes_BN.detach(), *matching)
    if fused(tokens_BND, CROSSOVER, LOOPS, ON_GPU):
        merged, sizes = _merge_operation(*(t.contiguous() for t in tensors))
        return merged, sizes
    kept_BK, sources_BR, targets_BR, _ = matching
    return reference_merge(*tensors), _merged_sizes(sizes_BN.detach(), kept_BK, sources_BR, targets_BR)


def unmerge_tokens(merged_BKD: Tensor, matching: Matching) -> Tensor:
    """Every token as the row that it merged into, (B, N, D), in the order before the merge; deterministic.

    Raises:
        ValueError: an argument does not fit.
    """
    (batch, _), rows = _check_matching(matching, merged_BKD), matching.kept_BK.shape[1]
    fits = merged_BKD.ndim == 3 and merged_BKD.shape[:2] == (batch, rows) and merged_BKD.is_floating_point()
    if not fits:
        raise misfit("merged_BKD", merged_BKD, f"a floating ({batch}, {rows}, D)")
    if fused(merged_BKD, CROSSOVER, LOOPS, ON_GPU):
        tokens: Tensor = _unmerge_operation(*(t.contiguous() for t in (merged_BKD, *matching)))
        return tokens
    return reference_unmerge(merged_BKD, *matching)


def _check_matching(matching: Matching, tokens: Tensor) -> tuple[int, int]:
    """Batch and tokens of a matching whose indices fit together."""
    kept_BK, sources_BR, _, row_BN = matching
    if any(indices.ndim != 2 for indices in matching):
        raise misfit("matching", row_BN, "indices (B, K), (B, R), (B, R) and (B, N)")
    (batch, length), rows, merged = row_BN.shape, kept_BK.shape[1], sources_BR.shape[1]
    sizes = {"kept_BK": (rows, length), "sources_BR": (merged, length), "targets_BR": (merged, rows)}
    for name, (count, upper) in (sizes | {"row_BN": (length, rows)}).items():
        check_indices(f"matching.{name}", getattr(matching, name), (batch, count), upper, tokens)
    return batch, length


def flops(merged: int, width: int, backward: bool = False) -> int:
    """FLOPs: a multiply-add for each element that merges; backward the two shares' products."""
    return 2 * merged * width


def traffic_bytes(tokens: int, rows: int, width: int, element_bytes: int) -> int:
    """Bytes that must move: tokens on one side, rows on the other; backward alike."""
    return (tokens + rows) * width * element_bytes
