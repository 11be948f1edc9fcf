"""Bipartite soft matching: which tokens are most similar, without the similarity matrix on a GPU.

Tokens alternate between two sets, A the even and B the odd. Each A proposes its most similar B, by cosine; the r
best proposals merge. Rows are the protected tokens, then what is left of A, then B.
Source: Bolya et al. 2023 (ToMe), section 3.1.

Names: B batch, N tokens, R merged, K = N - R rows, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, no_type_check

import torch
from torch import Tensor

from naslab.kernels._check import misfit
from naslab.kernels._dispatch import full_precision, fused, way, widened
from naslab.kernels._triton import Launch, ceil_div, kernel, launch
from naslab.kernels.token_mask import token_mask

if TYPE_CHECKING:
    import triton.language as tl

LAUNCH = {"any": Launch(32, rows=16), "sm_100": Launch(32, rows=32), "gfx": Launch(32, rows=32)}
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
    exact = metric_BND.to(widened(metric_BND.dtype))
    unit = exact / exact.norm(dim=2, keepdim=True).clamp(min=1e-15)
    similar_BAB = unit[:, ::2] @ unit[:, 1::2].mT
    first = torch.arange(similar_BAB.shape[1], device=metric_BND.device) * 2 < protected
    second = torch.arange(similar_BAB.shape[2], device=metric_BND.device) * 2 + 1 < protected
    best, partner = similar_BAB.masked_fill(first[:, None] | second, -INFINITY).max(2)
    return best, partner


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


@torch.library.custom_op("naslab::token_match", mutates_args=())
def _match(metric: Tensor, protected: int) -> tuple[Tensor, Tensor]:
    if way(metric) == "reference":
        return reference_match(metric, protected)
    (batch, tokens, width), outputs = metric.shape, _matched(metric)
    if outputs[0].numel():
        size = launch("match_tokens", metric.device, LAUNCH)
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
    return metric.new_empty(shape, dtype=widened(metric.dtype)), metric.new_empty(shape, dtype=torch.int64)


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
        best, partner = _matched(metric.to(widened(metric.dtype)))
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


def match_flops(batch: int, tokens: int, width: int) -> int:
    """FLOPs of the contraction: every A against every B."""
    return 2 * batch * ((tokens + 1) // 2) * (tokens // 2) * width
