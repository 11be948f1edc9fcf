"""The class token's attention to each token: one row of the attention, averaged over heads.

    score_n = 1/H sum_h softmax_n(scale <q_h, k_hn>)

Fused attention returns no probabilities, so that a rule that selects tokens by them would have to give it up; this row
costs one reading of the keys. Backward: dlogit_hn = p_hn / H (g_n - sum_m p_hm g_m), then dq and dk.
Source: Liang et al. 2022 (EViT), section 3.1.

Names: B batch, H heads, N tokens, D width of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, room_for, way, widened
from naslab.kernels._triton import Launch, ceil_div, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

CROSSOVER = 131_072
"""Elements of the keys from which the C++ loops win on a CPU (`naslab bench kernels`)."""
LAUNCH = {"any": Launch(64, rows=32), "gfx": Launch(64, rows=64)}
AVERAGED = {"any": Launch(256, num_warps=2), "gfx": Launch(256, num_warps=1)}


@full_precision
def reference(query_BHD: Tensor, keys_BHND: Tensor, scale: float) -> Tensor:
    """The definition, (B, N); the softmax of half precisions in float32."""
    return _logits(query_BHD, keys_BHND, scale).softmax(2).mean(1)


def _logits(query_BHD: Tensor, keys_BHND: Tensor, scale: float) -> Tensor:
    row_BHN = (query_BHD[:, :, None] @ keys_BHND.mT).squeeze(2)
    return row_BHN.to(widened(query_BHD.dtype)) * scale


@kernel
@no_type_check
def class_logits(
    query_ptr, keys_ptr, logits_ptr, logsumexp_ptr, heads, tokens, width, batch_stride, head_stride, token_stride,
    scale, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one sample: its row of logits and their log-sum-exp."""
    program = tl.program_id(0).to(tl.int64)
    keys = keys_ptr + program // heads * batch_stride + program % heads * head_stride
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, tokens, ROWS):
        n = (start + tl.arange(0, ROWS)).to(tl.int64)
        there = n < tokens
        logit = tl.zeros((ROWS,), tl.float32)
        for first in range(0, width, BLOCK):
            d = first + tl.arange(0, BLOCK)
            query = tl.load(query_ptr + program * width + d, mask=d < width, other=0.0).to(tl.float32)
            here = there[:, None] & (d < width)[None, :]
            key = tl.load(keys + n[:, None] * token_stride + d[None, :], mask=here, other=0.0).to(tl.float32)
            logit += tl.sum(query[None, :] * key, 1)
        logit = tl.where(there, logit * scale, float("-inf"))
        tl.store(logits_ptr + program * tokens + n, logit, mask=there)
        new = tl.maximum(largest, tl.max(logit, 0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(logit - new), 0)
        largest = new
    tl.store(logsumexp_ptr + program, largest + tl.log(total))


@kernel
@no_type_check
def class_average(logits_ptr, logsumexp_ptr, scores_ptr, heads, tokens, BLOCK: tl.constexpr):
    """BLOCK scores of one sample."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros((BLOCK,), tl.float32)
    for h in range(heads):
        row = b * heads + h
        logit = tl.load(logits_ptr + row * tokens + n, mask=n < tokens, other=float("-inf"))
        summed += tl.exp(logit - tl.load(logsumexp_ptr + row))
    tl.store(scores_ptr + b * tokens + n, summed / heads, mask=n < tokens)


@kernel
@no_type_check
def class_scores_backward(
    grad_ptr, logits_ptr, logsumexp_ptr, query_ptr, keys_ptr, dquery_ptr, dkeys_ptr, heads, tokens, width,
    batch_stride, head_stride, token_stride, scale,
    QUERY_GRAD: tl.constexpr, KEYS_GRAD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK features of one head of one sample."""
    program = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    grads = grad_ptr + program // heads * tokens
    keys = keys_ptr + program // heads * batch_stride + program % heads * head_stride
    logsumexp = tl.load(logsumexp_ptr + program)
    expected = tl.zeros((ROWS,), tl.float32)
    for start in range(0, tokens, ROWS):
        n = (start + tl.arange(0, ROWS)).to(tl.int64)
        logit = tl.load(logits_ptr + program * tokens + n, mask=n < tokens, other=float("-inf"))
        expected += tl.exp(logit - logsumexp) * tl.load(grads + n, mask=n < tokens, other=0.0)
    mean = tl.sum(expected, 0)
    query = tl.load(query_ptr + program * width + d, mask=d < width, other=0.0).to(tl.float32)
    dquery = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, tokens, ROWS):
        n = (start + tl.arange(0, ROWS)).to(tl.int64)
        logit = tl.load(logits_ptr + program * tokens + n, mask=n < tokens, other=float("-inf"))
        grad = tl.load(grads + n, mask=n < tokens, other=0.0)
        dlogit = tl.exp(logit - logsumexp) * (grad - mean) * (scale / heads)
        here = (n < tokens)[:, None] & (d < width)[None, :]
        if QUERY_GRAD:
            key = tl.load(keys + n[:, None] * token_stride + d[None, :], mask=here, other=0.0).to(tl.float32)
            dquery += tl.sum(dlogit[:, None] * key, 0)
        if KEYS_GRAD:
            dkey = (dlogit[:, None] * query[None, :]).to(dkeys_ptr.dtype.element_ty)
            tl.store(dkeys_ptr + (program * tokens + n)[:, None] * width + d[None, :], dkey, mask=here)
    if QUERY_GRAD:
        tl.store(dquery_ptr + program * width + d, dquery.to(dquery_ptr.dtype.element_ty), mask=d < width)


LOOPS = "class_scores.cpp"


@torch.library.custom_op("naslab::class_scores", mutates_args=())
def _forward(query: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    path = way(keys, LOOPS)
    if path == "reference":
        logits = _logits(query, keys, scale)
        return logits.softmax(2).mean(1), logits, logits.logsumexp(2)
    (batch, heads, tokens, width), strides = keys.shape, keys.stride()[:3]
    scores, logits, logsumexp = _outputs(keys)
    if path == "native":
        _native.call(LOOPS, "class_scores", query, keys, scores, logits, logsumexp, *keys.shape, *strides, scale)
    elif logits.numel():
        size, averaged = launch("class_logits", keys.device, LAUNCH), launch("class_average", keys.device, AVERAGED)
        class_logits[(batch * heads,)](
            query, keys, logits, logsumexp, heads, tokens, width, *strides, scale,
            ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
        class_average[(batch, ceil_div(tokens, averaged.block))](
            logits, logsumexp, scores, heads, tokens, BLOCK=averaged.block, num_warps=averaged.num_warps
        )
    return scores, logits, logsumexp


@_forward.register_fake
def _(query: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(keys)


def _outputs(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, tokens, _ = keys.shape
    shapes = ((batch, tokens), (batch, heads, tokens), (batch, heads))
    scores, logits, logsumexp = (keys.new_empty(shape, dtype=widened(keys.dtype)) for shape in shapes)
    return scores, logits, logsumexp


@torch.library.custom_op("naslab::class_scores_backward", mutates_args=())
def _backward(
    grad: Tensor, logits: Tensor, logsumexp: Tensor, query: Tensor, keys: Tensor, scale: float, needed: list[bool]
) -> tuple[Tensor, Tensor]:
    path = way(keys, LOOPS)
    if path == "reference":
        dquery, dkeys = fallback(reference, needed, grad, query, keys, scale)
        return dquery, dkeys
    (batch, heads, _, width), strides = keys.shape, keys.stride()[:3]
    dquery, dkeys = room_for(query, needed[0]).zero_(), room_for(keys, needed[1])
    arguments = (grad, logits, logsumexp, query, keys, dquery, dkeys)
    if path == "native":
        _native.call(LOOPS, "class_scores_backward", *arguments, *keys.shape, *strides, scale)
    elif keys.numel():
        size = launch("class_scores_backward", keys.device, LAUNCH)
        class_scores_backward[(batch * heads, ceil_div(width, size.block))](
            *arguments, *keys.shape[1:], *strides, scale, QUERY_GRAD=needed[0], KEYS_GRAD=needed[1],
            ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps,
        )  # fmt: skip
    return dquery, dkeys


@_backward.register_fake
def _(
    grad: Tensor, logits: Tensor, logsumexp: Tensor, query: Tensor, keys: Tensor, scale: float, needed: list[bool]
) -> tuple[Tensor, Tensor]:
    return room_for(query, needed[0]), room_for(keys, needed[1])


_operation = differentiable("class_scores", reference, leading=2)


def class_scores(query_BHD: Tensor, keys_BHND: Tensor, scale: float, skip: int = 1) -> Tensor:
    """The attention that each token gets from the class token, mean over heads: (B, N - skip), float32 or float64.

    Differentiable and deterministic. Keys may be strided, as they come from a joint projection; only their last
    dimension has to be dense to save a copy.

    Args:
        query_BHD: the class token's query.
        keys_BHND: keys of all tokens; the softmax is over all of them.
        scale: of the logits, usually D^-0.5.
        skip: leading tokens that get no score: the class token itself, registers.

    Raises:
        ValueError: an argument does not fit.
    """
    fits = keys_BHND.ndim == 4 and keys_BHND.shape[1] > 0 and keys_BHND.is_floating_point()
    if not fits:
        raise misfit("keys_BHND", keys_BHND, "a floating (B, H, N, D) with heads")
    batch, heads, tokens, width = keys_BHND.shape
    fits = query_BHD.shape == (batch, heads, width) and query_BHD.dtype == keys_BHND.dtype
    if not fits:
        raise misfit("query_BHD", query_BHD, f"({batch}, {heads}, {width}) of {keys_BHND.dtype} as keys_BHND")
    same_device("query_BHD", query_BHD, keys_BHND)
    if not 0 <= skip <= tokens:
        raise ValueError(f"skip: {skip} is not 0 to {tokens} tokens")
    if fused(keys_BHND, CROSSOVER, LOOPS, on_gpu="eager"):
        dense = keys_BHND if keys_BHND.stride(3) == 1 else keys_BHND.contiguous()
        scores: Tensor = _operation(query_BHD.contiguous(), dense, float(scale))[0]
        return scores[:, skip:]
    return reference(query_BHD, keys_BHND, scale)[:, skip:]


def flops(batch: int, heads: int, tokens: int, width: int, backward: bool = False) -> int:
    """FLOPs of the contractions: a logit for each key; backward the query's gradient and the keys'."""
    return (4 if backward else 2) * batch * heads * tokens * width


def traffic_bytes(batch: int, heads: int, tokens: int, width: int, element_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: the keys once; backward their gradient too."""
    return (2 if backward else 1) * batch * heads * tokens * width * element_bytes
