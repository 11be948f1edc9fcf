"""Merge the tokens that resemble each other most: bipartite soft matching, size-weighted means, and the way back.

Tokens alternate between two sets, A the even and B the odd. Each A proposes its most similar B, by cosine; the r
best proposals merge. The merged row is the mean of its tokens weighted by their sizes. Rows are the protected tokens,
then what is left of A, then B. A row map makes merge and unmerge each other's adjoints: one collects rows in a fixed
order, the other spreads them, so neither needs atomics.
Source: Bolya et al. 2023 (ToMe), section 3.1.

Names: B batch, N tokens, R merged, K = N - R rows, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import check_indices, misfit, same_device
from naslab.kernels._dispatch import OnGpu, differentiable, fallback, full_precision, fused, way
from naslab.kernels._triton import Launch, ceil_div, kernel, launch
from naslab.kernels.token_mask import token_mask

if TYPE_CHECKING:
    import triton.language as tl

CROSSOVER = 98_304
"""Elements of the tokens from which the C++ loops win on a CPU (`naslab bench kernels`)."""
ON_GPU: OnGpu = "never"
"""Collecting a row walks all tokens: a step of 32 x 1568 tokens takes 12.8 ms on an H200, eager PyTorch 1.3 ms."""
MATCHED = {"any": Launch(32, rows=16), "sm_100": Launch(32, rows=32), "gfx": Launch(32, rows=32)}
COLLECTED = {"any": Launch(128, rows=16), "gfx": Launch(128, rows=16)}
SPREAD = {"any": Launch(256, num_warps=2), "gfx": Launch(256, num_warps=1)}
INFINITY = float("inf")


class Matching(NamedTuple):
    """Which tokens merge. Of each row its own token `kept_BK`; the tokens `sources_BR` that merge, most similar
    first, and the rows `targets_BR` they merge into; and the row `row_BN` of each token.
    """

    kept_BK: Tensor
    sources_BR: Tensor
    targets_BR: Tensor
    row_BN: Tensor


@full_precision
def reference_match(metric_BND: Tensor, protected: int) -> tuple[Tensor, Tensor]:
    """The definition: similarity of each A to its most similar B, and which B that is; -inf where A is protected."""
    exact = metric_BND.to(_wide(metric_BND.dtype))
    unit = exact / exact.norm(dim=2, keepdim=True).clamp(min=1e-15)
    similar_BAB = unit[:, ::2] @ unit[:, 1::2].mT
    first = torch.arange(similar_BAB.shape[1], device=metric_BND.device) * 2 < protected
    second = torch.arange(similar_BAB.shape[2], device=metric_BND.device) * 2 + 1 < protected
    best, partner = similar_BAB.masked_fill(first[:, None] | second, -INFINITY).max(2)
    return best, partner


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


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@kernel
@no_type_check
def match_tokens(
    metric_ptr, best_ptr, partner_ptr, tokens, width, protected, DEPTH: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of A in one sample against all of B, without the matrix of similarities."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    even, odd = (tokens + 1) // 2, tokens // 2
    metric = metric_ptr + b * tokens * width
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    partner = tl.zeros((ROWS,), tl.int32)
    for start in range(0, odd, BLOCK):
        j = start + tl.arange(0, BLOCK)
        product = tl.zeros((ROWS, BLOCK), tl.float32)
        first_square = tl.zeros((ROWS,), tl.float32)
        second_square = tl.zeros((BLOCK,), tl.float32)
        for depth in range(0, width, DEPTH):
            d = depth + tl.arange(0, DEPTH)
            here = (i < even)[:, None] & (d < width)[None, :]
            first = tl.load(metric + (2 * i).to(tl.int64)[:, None] * width + d[None, :], mask=here, other=0.0)
            here = (d < width)[:, None] & (j < odd)[None, :]
            second = tl.load(metric + (2 * j + 1).to(tl.int64)[None, :] * width + d[:, None], mask=here, other=0.0)
            first, second = first.to(tl.float32), second.to(tl.float32)
            product += tl.dot(first, second, input_precision="ieee")
            first_square += tl.sum(first * first, 1)
            second_square += tl.sum(second * second, 0)
        norms = tl.maximum(tl.sqrt(first_square), 1e-15)[:, None] * tl.maximum(tl.sqrt(second_square), 1e-15)[None, :]
        allowed = (j < odd)[None, :] & (2 * j + 1 >= protected)[None, :] & (2 * i >= protected)[:, None]
        similar = tl.where(allowed, product / norms, float("-inf"))
        value, index = tl.max(similar, 1, return_indices=True)
        partner = tl.where(value > best, start + index, partner)
        best = tl.maximum(value, best)
    tl.store(best_ptr + b * even + i, best, mask=i < even)
    tl.store(partner_ptr + b * even + i, partner.to(tl.int64), mask=i < even)


@kernel
@no_type_check
def collect_rows(
    tokens_ptr, sizes_ptr, kept_ptr, sources_ptr, targets_ptr, out_ptr, merged_ptr, tokens, rows, merged, width,
    MEAN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one row: its own token and those that merge into it, as their mean or their sum."""
    program = tl.program_id(0).to(tl.int64)
    b, row = program // rows, program % rows
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(kept_ptr + program)
    share = tl.full((), 1.0, tl.float32)
    total = tl.full((), 1.0, tl.float32)
    if MEAN:
        size = tl.load(sizes_ptr + b * tokens + own).to(tl.float32)
        joined = tl.zeros((ROWS,), tl.float32)
        for start in range(0, merged, ROWS):
            r = start + tl.arange(0, ROWS)
            into = tl.load(targets_ptr + b * merged + r, mask=r < merged, other=-1) == row
            source = tl.load(sources_ptr + b * merged + r, mask=into, other=0)
            joined += tl.load(sizes_ptr + b * tokens + source, mask=into, other=0.0).to(tl.float32)
        total = size + tl.sum(joined, 0)
        share = size / total
        tl.store(merged_ptr + program, total.to(merged_ptr.dtype.element_ty))
    token = tl.load(tokens_ptr + (b * tokens + own) * width + d, mask=d < width, other=0.0).to(tl.float32)
    summed = token * share
    for start in range(0, merged, ROWS):
        r = start + tl.arange(0, ROWS)
        into = tl.load(targets_ptr + b * merged + r, mask=r < merged, other=-1) == row
        source = tl.load(sources_ptr + b * merged + r, mask=into, other=0)
        weight = tl.full((ROWS,), 1.0, tl.float32)
        if MEAN:
            weight = tl.load(sizes_ptr + b * tokens + source, mask=into, other=0.0).to(tl.float32) / total
        here = into[:, None] & (d < width)[None, :]
        place = (b * tokens + source) * width
        other = tl.load(tokens_ptr + place[:, None] + d[None, :], mask=here, other=0.0).to(tl.float32)
        summed += tl.sum(weight[:, None] * other, 0)
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


@torch.library.custom_op("naslab::token_match", mutates_args=())
def _match(metric: Tensor, protected: int) -> tuple[Tensor, Tensor]:
    if way(metric) == "reference":
        return reference_match(metric, protected)
    (batch, tokens, width), outputs = metric.shape, _matched(metric)
    if outputs[0].numel():
        size = launch("match_tokens", metric.device, MATCHED)
        match_tokens[(batch, ceil_div((tokens + 1) // 2, size.rows))](
            metric, *outputs, tokens, width, protected,
            DEPTH=16, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
    return outputs


@_match.register_fake
def _(metric: Tensor, protected: int) -> tuple[Tensor, Tensor]:
    return _matched(metric)


def _matched(metric: Tensor) -> tuple[Tensor, Tensor]:
    shape = (metric.shape[0], (metric.shape[1] + 1) // 2)
    return metric.new_empty(shape, dtype=_wide(metric.dtype)), metric.new_empty(shape, dtype=torch.int64)


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
        size = launch("collect_rows", tokens.device, COLLECTED)
        collect_rows[(batch * rows, max(1, ceil_div(width, size.block)))](
            tokens, weights, kept, sources, targets, out, merged, length, rows, num_merged, width,
            MEAN=mean, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
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


def bipartite_match(metric_BND: Tensor, r: int, protected: int = 1) -> Matching:
    """Which r tokens merge into which others; no gradients, deterministic.

    Similarities are cosines in float32 (float64 for that), so that half precisions make no more ties than there are;
    ties go to the lower index. Unmerged tokens of A keep their order where a token is protected, and stand by
    falling similarity where none is: as published.

    Args:
        metric_BND: what is compared, e.g. the keys averaged over heads.
        r: tokens to merge, 0 to (N - protected) // 2.
        protected: leading tokens that never merge (class token, registers).

    Raises:
        ValueError: an argument does not fit.
    """
    if not (metric_BND.ndim == 3 and metric_BND.is_floating_point()):
        raise misfit("metric_BND", metric_BND, "a floating (B, N, D)")
    batch, tokens, _ = metric_BND.shape
    if not 0 <= protected <= tokens:
        raise ValueError(f"protected: {protected} is not 0 to {tokens} tokens")
    if not 0 <= r <= (tokens - protected) // 2:
        raise ValueError(f"r: {r} is not 0 to {(tokens - protected) // 2}, half of the unprotected tokens")
    metric = metric_BND.detach()
    if tokens < 2:
        best, partner = _matched(metric.to(_wide(metric.dtype)))
        best, partner = best.zero_(), partner.zero_()
    elif fused(metric, 0):
        best, partner = torch.ops.naslab.token_match(metric.contiguous(), protected)
    else:
        best, partner = reference_match(metric, protected)
    # Not a number must neither disturb the ranks nor come before a protected token.
    order = token_mask((-best).masked_fill(best.isnan(), 2.0), r)
    left = order.masked_BM.sort(1).values if protected else order.masked_BM
    num_first, num_second = (protected + 1) // 2, protected // 2
    leading = torch.arange(protected, device=metric.device).expand(batch, -1)
    second = torch.arange(num_second, tokens // 2, device=metric.device).expand(batch, -1) * 2 + 1
    kept_BK = torch.cat([leading, 2 * left[:, num_first:], second], 1)
    places = torch.arange(kept_BK.shape[1], device=metric.device).expand_as(kept_BK)
    row_BN = torch.zeros(batch, tokens, dtype=torch.int64, device=metric.device).scatter(1, kept_BK, places)
    sources_BR = 2 * order.visible_BK
    targets_BR = row_BN.gather(1, 2 * partner.gather(1, order.visible_BK) + 1)
    return Matching(kept_BK, sources_BR, targets_BR, row_BN.scatter(1, sources_BR, targets_BR))


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


def match_flops(batch: int, tokens: int, width: int) -> int:
    """FLOPs of the contraction: every A against every B."""
    return 2 * batch * ((tokens + 1) // 2) * (tokens // 2) * width


def flops(merged: int, width: int, backward: bool = False) -> int:
    """FLOPs: a multiply-add for each element that merges; backward the two shares' products."""
    return 2 * merged * width


def traffic_bytes(tokens: int, rows: int, width: int, element_bytes: int) -> int:
    """Bytes that must move: tokens on one side, rows on the other; backward alike."""
    return (tokens + rows) * width * element_bytes
