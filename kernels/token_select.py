"""Keep the tokens of highest score and fuse the rest into one: gather, weighted sum and both backwards.

    [x_0 .. x_(P-1) | x_n of the K best, best first | sum of score_n x_n over the others]

The P leading tokens (class token, registers) have no score and always stay. Scores are ranked by `token_mask`, which
settles ties in favour of the lower index. Weights are the raw scores, as published: they do not sum to one.
Source: Liang et al. 2022 (EViT), section 3.2; also the sparsification of SMAUG (Lin et al. 2023).

Names: B batch, N tokens, M = N - P of them with scores, K kept, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, room_for, way
from naslab.kernels._triton import Launch, ceil_div, kernel, launch
from naslab.kernels.token_mask import token_mask

if TYPE_CHECKING:
    import triton.language as tl

CROSSOVER = 98_304
"""Elements of the tokens from which the C++ loops win on a CPU (`naslab bench kernels`)."""
MOVED = {"any": Launch(256, num_warps=2), "gfx": Launch(256, num_warps=1)}
FUSED = {"any": Launch(128, rows=16), "gfx": Launch(128, rows=16)}
INFINITY = float("inf")


class Selected(NamedTuple):
    """Tokens (B, P + K, D), one more where the others were fused, and the indices (B, K) of the kept, best first.

    Indices count from the first token that has a score.
    """

    tokens: Tensor
    kept_BK: Tensor


@full_precision
def reference(
    tokens_BND: Tensor, scores_BM: Tensor, kept_BK: Tensor, dropped_BX: Tensor, rank_BM: Tensor, fuse: bool
) -> Tensor:
    """The definition."""
    (batch, length, _), device = tokens_BND.shape, tokens_BND.device
    rows, prefix = torch.arange(batch, device=device)[:, None], length - rank_BM.shape[1]
    leading = torch.arange(prefix, device=device).expand(batch, -1)
    chosen = tokens_BND[rows, torch.cat([leading, prefix + kept_BK], 1)]
    if not fuse:
        return chosen
    weights_BX = scores_BM[rows, dropped_BX].to(tokens_BND.dtype)
    summed = weights_BX[:, None] @ tokens_BND[rows, prefix + dropped_BX]
    return torch.cat([chosen, summed.to(tokens_BND.dtype)], 1)


@kernel
@no_type_check
def select_rows(
    tokens_ptr, kept_ptr, out_ptr, tokens, prefix, kept, width, out_rows, BLOCK: tl.constexpr
):  # fmt: skip
    """BLOCK features of one token that stays."""
    program = tl.program_id(0).to(tl.int64)
    b, row = program // (prefix + kept), program % (prefix + kept)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    chosen = tl.load(kept_ptr + b * kept + row - prefix, mask=row >= prefix, other=0)
    place = tl.where(row < prefix, row, prefix + chosen)
    token = tl.load(tokens_ptr + (b * tokens + place) * width + d, mask=d < width, other=0.0)
    tl.store(out_ptr + (b * out_rows + row) * width + d, token, mask=d < width)


@kernel
@no_type_check
def fuse_rows(
    tokens_ptr, scores_ptr, dropped_ptr, out_ptr, tokens, prefix, dropped, scored, width, out_rows,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one sample's fused token, its last row."""
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, dropped, ROWS):
        x = start + tl.arange(0, ROWS)
        place = tl.load(dropped_ptr + b * dropped + x, mask=x < dropped, other=0)
        weight = tl.load(scores_ptr + b * scored + place, mask=x < dropped, other=0.0).to(tl.float32)
        here = (x < dropped)[:, None] & (d < width)[None, :]
        row = (b * tokens + prefix + place) * width
        summed += tl.sum(weight[:, None] * tl.load(tokens_ptr + row[:, None] + d[None, :], mask=here, other=0.0), 0)
    tl.store(out_ptr + (b * out_rows + out_rows - 1) * width + d, summed.to(out_ptr.dtype.element_ty), mask=d < width)


@kernel
@no_type_check
def select_backward(
    grad_ptr, tokens_ptr, scores_ptr, rank_ptr, dtokens_ptr, dscores_ptr, tokens, prefix, kept, scored, width, out_rows,
    FUSE: tl.constexpr, TOKENS: tl.constexpr, SCORES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: its gradient, and its score's."""
    program = tl.program_id(0).to(tl.int64)
    b, n = program // tokens, program % tokens
    scored_token = b * scored + n - prefix
    rank = tl.load(rank_ptr + scored_token, mask=n >= prefix, other=0)
    stays = (n < prefix) | (rank < kept)
    source = tl.where(n < prefix, n, tl.where(stays, prefix + rank, out_rows - 1))
    weight = tl.where(stays, 1.0, 0.0)
    if FUSE:
        weight += tl.load(scores_ptr + scored_token, mask=stays == 0, other=0.0).to(tl.float32)
    product = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        d = start + tl.arange(0, BLOCK)
        here = (d < width) & (stays | FUSE)
        if not TOKENS:
            here = here & (stays == 0)
        grad = tl.load(grad_ptr + (b * out_rows + source) * width + d, mask=here, other=0.0).to(tl.float32)
        if TOKENS:
            dtoken = (grad * weight).to(dtokens_ptr.dtype.element_ty)
            tl.store(dtokens_ptr + program * width + d, dtoken, mask=d < width)
        if FUSE and SCORES:
            token = tl.load(tokens_ptr + program * width + d, mask=(d < width) & (stays == 0), other=0.0)
            product += grad * token.to(tl.float32)
    if SCORES:
        tl.store(dscores_ptr + scored_token, tl.sum(product, 0).to(dscores_ptr.dtype.element_ty), mask=n >= prefix)


LOOPS = "token_select.cpp"


@torch.library.custom_op("naslab::token_select", mutates_args=())
def _forward(tokens: Tensor, scores: Tensor, kept: Tensor, dropped: Tensor, rank: Tensor, fuse: bool) -> Tensor:
    path = way(tokens, LOOPS)
    if path == "reference":
        return reference(tokens, scores, kept, dropped, rank, fuse)
    (batch, length, width), scored, num_kept = tokens.shape, rank.shape[1], kept.shape[1]
    prefix, rows = length - scored, length - scored + num_kept + int(fuse)
    out = tokens.new_empty(batch, rows, width)
    if path == "native":
        sizes = (*tokens.shape, scored, num_kept, int(fuse))
        _native.call(LOOPS, "select_forward", tokens, scores.float(), kept, dropped, out, *sizes)
    elif out.numel():
        if prefix + num_kept:
            size = launch("select_rows", tokens.device, MOVED)
            select_rows[(batch * (prefix + num_kept), ceil_div(width, size.block))](
                tokens, kept, out, length, prefix, num_kept, width, rows, BLOCK=size.block, num_warps=size.num_warps
            )
        if fuse:
            size = launch("fuse_rows", tokens.device, FUSED)
            fuse_rows[(batch, ceil_div(width, size.block))](
                tokens, scores, dropped, out, length, prefix, scored - num_kept, scored, width, rows,
                ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
            )  # fmt: skip
    return out


@_forward.register_fake
def _(tokens: Tensor, scores: Tensor, kept: Tensor, dropped: Tensor, rank: Tensor, fuse: bool) -> Tensor:
    batch, length, width = tokens.shape
    return tokens.new_empty(batch, length - rank.shape[1] + kept.shape[1] + int(fuse), width)


@torch.library.custom_op("naslab::token_select_backward", mutates_args=())
def _backward(
    grad: Tensor, tokens: Tensor, scores: Tensor, kept: Tensor, dropped: Tensor, rank: Tensor, fuse: bool,
    needed: list[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    path = way(tokens, LOOPS)
    if path == "reference":
        first, second = fallback(reference, needed, grad, tokens, scores, kept, dropped, rank, fuse)
        return first, second
    (batch, length, width), scored, num_kept = tokens.shape, rank.shape[1], kept.shape[1]
    dtokens, dscores = map(room_for, (tokens, scores), needed)
    if path == "native":
        exact = torch.empty_like(dscores, dtype=torch.float32)
        sizes = (*tokens.shape, scored, num_kept, int(fuse))
        _native.call(LOOPS, "select_backward", grad, tokens, scores.float(), rank, dtokens, exact, *sizes)
        return dtokens, exact.to(scores.dtype)
    if batch * length:
        size = launch("select_backward", tokens.device, MOVED)
        select_backward[(batch * length,)](
            grad, tokens, scores, rank, dtokens, dscores, length, length - scored, num_kept, scored, width,
            grad.shape[1], FUSE=fuse, TOKENS=needed[0], SCORES=needed[1], BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
    return dtokens, dscores


@_backward.register_fake
def _(
    grad: Tensor, tokens: Tensor, scores: Tensor, kept: Tensor, dropped: Tensor, rank: Tensor, fuse: bool,
    needed: list[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return room_for(tokens, needed[0]), room_for(scores, needed[1])


_operation = differentiable("token_select", reference, leading=2)


def select_tokens(tokens_BND: Tensor, scores_BM: Tensor, keep: int, fuse: bool = True) -> Selected:
    """Keep the `keep` tokens of highest score, best first, behind those that have none; deterministic.

    Gradients reach the tokens, and the scores through the fused token. A score that is not a number ranks last.

    Args:
        tokens_BND: floating point; the N - M leading ones always stay.
        scores_BM: one number per token, e.g. from `class_scores`; ties go to the lower index.
        keep: tokens to keep, 0 to M.
        fuse: append the sum of the others, weighted by their scores.

    Raises:
        ValueError: an argument does not fit.
    """
    if not (tokens_BND.ndim == 3 and tokens_BND.is_floating_point()):
        raise misfit("tokens_BND", tokens_BND, "a floating (B, N, D)")
    batch, length, _ = tokens_BND.shape
    fits = scores_BM.ndim == 2 and scores_BM.shape[0] == batch and scores_BM.shape[1] <= length
    fits = fits and scores_BM.is_floating_point()
    if not fits:
        raise misfit("scores_BM", scores_BM, f"a floating ({batch}, M), M at most {length}")
    same_device("scores_BM", scores_BM, tokens_BND)
    if not 0 <= keep <= scores_BM.shape[1]:
        raise ValueError(f"keep: {keep} is not 0 to {scores_BM.shape[1]} tokens")
    exact = scores_BM.detach().to(torch.promote_types(scores_BM.dtype, torch.float32))
    mask = token_mask((-exact).masked_fill(exact.isnan(), INFINITY), keep)
    scores = scores_BM if fuse else scores_BM.detach()
    tensors = (tokens_BND, scores, mask.visible_BK, mask.masked_BM, mask.rank_BL)
    if fused(tokens_BND, CROSSOVER, LOOPS):
        return Selected(_operation(*(t.contiguous() for t in tensors), fuse), mask.visible_BK)
    return Selected(reference(*tensors, fuse), mask.visible_BK)


def flops(dropped: int, width: int, fuse: bool, backward: bool = False) -> int:
    """FLOPs: a multiply-add for each element of a fused token; backward its gradient and its score's."""
    return (3 if backward else 2) * dropped * width if fuse else 0


def traffic_bytes(
    rows: int, kept: int, width: int, element_bytes: int, fuse: bool = True, backward: bool = False
) -> int:
    """Bytes that must move for `rows` tokens of which `kept` stay: kept rows both ways, fused rows read; backward
    every row's gradient written, and fused rows read again for their scores.
    """
    dropped = (rows - kept) if fuse else 0
    moved = kept + rows + dropped if backward else 2 * kept + dropped
    return moved * width * element_bytes
