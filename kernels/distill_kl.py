"""KL divergence over a vocabulary of a student's predictions from an expert's, the gradient stopped at the expert.

    loss_n = sum over v of  p_nv (log p_nv - log q_nv),  p = softmax(expert_n), q = softmax(logits_n)

Backward: dlogits_nv = g_n (q_nv - p_nv). Written out in PyTorch this makes five matrices of rows x vocabulary; here
both rows are read once, loss and normalisers leave, and backward makes the probabilities again. A row whose gradient
is 0, such as padding, is not read again.

The loss is made as E_p[expert - logits] - lse(expert) + lse(logits), which is 0 to the bit where both are equal. What
the expert excludes, a logit of -inf, counts nothing.
Source: Hinton, Vinyals, Dean 2015, at temperature 1; the imitation loss of Lin, Jwalapuram, Joty 2023 (DySI).

Names: N rows, V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, no_type_check

import torch
from torch import Tensor

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, way, widened
from naslab.kernels._triton import Launch, ceil_div, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

CROSSOVER = 32_768
"""Logits from which the C++ loops win on a CPU (`naslab bench kernels`)."""
LAUNCH = {"any": Launch(4096, num_warps=8), "gfx": Launch(4096, num_warps=8)}


@full_precision
def reference(logits_NV: Tensor, expert_NV: Tensor) -> Tensor:
    """The definition, (N,), in float32 or float64."""
    log_q, log_p = (x.to(widened(logits_NV.dtype)).log_softmax(1) for x in (logits_NV, expert_NV))
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(1)


@kernel
@no_type_check
def distill_kl_forward(
    logits_ptr, expert_ptr, losses_ptr, lse_ptr, expert_lse_ptr, vocabulary, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: its divergence and both log-sum-exps, in one pass."""
    n = tl.program_id(0).to(tl.int64)
    top_q = tl.full((), -1e30, tl.float32)
    top_p = tl.full((), -1e30, tl.float32)
    sum_q = tl.zeros((), tl.float32)
    sum_p = tl.zeros((), tl.float32)
    apart = tl.zeros((), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        v = start + tl.arange(0, BLOCK)
        here = v < vocabulary
        q = tl.load(logits_ptr + n * vocabulary + v, mask=here, other=float("-inf")).to(tl.float32)
        p = tl.load(expert_ptr + n * vocabulary + v, mask=here, other=float("-inf")).to(tl.float32)
        new_q = tl.maximum(top_q, tl.max(q, 0))
        new_p = tl.maximum(top_p, tl.max(p, 0))
        weight = tl.exp(p - new_p)
        fade = tl.exp(top_p - new_p)
        sum_q = sum_q * tl.exp(top_q - new_q) + tl.sum(tl.exp(q - new_q), 0)
        sum_p = sum_p * fade + tl.sum(weight, 0)
        # What has no weight any more counts nothing, even where it is infinite.
        apart = tl.where(fade > 0, apart * fade, 0.0) + tl.sum(weight * tl.where(weight > 0, p - q, 0.0), 0)
        top_q = new_q
        top_p = new_p
    lse = top_q + tl.log(sum_q)
    expert_lse = top_p + tl.log(sum_p)
    tl.store(losses_ptr + n, apart / sum_p - expert_lse + lse)
    tl.store(lse_ptr + n, lse)
    tl.store(expert_lse_ptr + n, expert_lse)


@kernel
@no_type_check
def distill_kl_backward(
    grad_ptr, lse_ptr, expert_lse_ptr, logits_ptr, expert_ptr, dlogits_ptr, vocabulary, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK logits of one row; those of a row without a gradient are not read."""
    n = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    grad = tl.load(grad_ptr + n).to(tl.float32)
    here = v < vocabulary
    read = v < tl.where(grad != 0, vocabulary, 0)
    q = tl.load(logits_ptr + n * vocabulary + v, mask=read, other=0.0).to(tl.float32)
    p = tl.load(expert_ptr + n * vocabulary + v, mask=read, other=0.0).to(tl.float32)
    dlogits = grad * (tl.exp(q - tl.load(lse_ptr + n)) - tl.exp(p - tl.load(expert_lse_ptr + n)))
    dlogits = tl.where(grad != 0, dlogits, 0.0)
    tl.store(dlogits_ptr + n * vocabulary + v, dlogits.to(dlogits_ptr.dtype.element_ty), mask=here)


LOOPS = "distill_kl.cpp"


@torch.library.custom_op("naslab::distill_kl", mutates_args=())
def _forward(logits: Tensor, expert: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    path, (losses, lse, expert_lse) = way(logits, LOOPS), _outputs(logits)
    if path == "reference" or not logits.numel():
        return reference(logits, expert), lse.zero_(), expert_lse.zero_()
    arguments = (logits, expert, losses, lse, expert_lse)
    if path == "native":
        _native.call(LOOPS, "distill_kl", *arguments, *logits.shape)
    else:
        size = launch("distill_kl_forward", logits.device, LAUNCH)
        rows, vocabulary = logits.shape
        distill_kl_forward[(rows,)](*arguments, vocabulary, BLOCK=size.block, num_warps=size.num_warps)
    return losses, lse, expert_lse


@_forward.register_fake
def _(logits: Tensor, expert: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(logits)


def _outputs(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and the log-sum-exps of student and expert, a number a row each."""
    losses, lse, expert_lse = (logits.new_empty(logits.shape[0], dtype=widened(logits.dtype)) for _ in range(3))
    return losses, lse, expert_lse


@torch.library.custom_op("naslab::distill_kl_backward", mutates_args=())
def _backward(grad: Tensor, lse: Tensor, expert_lse: Tensor, logits: Tensor, expert: Tensor) -> Tensor:
    path = way(logits, LOOPS)
    if path == "reference" or not logits.numel():
        return fallback(reference, [True], grad, logits, expert)[0]
    dlogits, (rows, vocabulary) = torch.empty_like(logits), logits.shape
    arguments = (grad, lse, expert_lse, logits, expert, dlogits)
    if path == "native":
        _native.call(LOOPS, "distill_kl_backward", *arguments, rows, vocabulary)
    else:
        size = launch("distill_kl_backward", logits.device, LAUNCH)
        grid = (rows, ceil_div(vocabulary, size.block))
        distill_kl_backward[grid](*arguments, vocabulary, BLOCK=size.block, num_warps=size.num_warps)
    return dlogits


@_backward.register_fake
def _(grad: Tensor, lse: Tensor, expert_lse: Tensor, logits: Tensor, expert: Tensor) -> Tensor:
    return torch.empty_like(logits)


_operation = differentiable("distill_kl", reference, leading=1)


def distill_kl(logits: Tensor, expert: Tensor) -> Tensor:
    """KL divergence of softmax(logits) from softmax(expert) by row: (..., V) -> (...), float32 or float64.

    Deterministic; differentiable in `logits` alone. Multiply by weights to leave rows out.

    Args:
        logits: the student's, (..., V), floating point.
        expert: the expert's, of the same shape and dtype; gets no gradient. What it excludes by -inf counts nothing.

    Raises:
        ValueError: an argument's shape, dtype or device does not fit.
    """
    if not (logits.ndim and logits.is_floating_point()):
        raise misfit("logits", logits, "a floating (..., V)")
    if expert.shape != logits.shape or expert.dtype != logits.dtype:
        raise misfit("expert", expert, f"{tuple(logits.shape)} of {logits.dtype} as logits")
    same_device("expert", expert, logits)
    rows = logits.shape[:-1]
    flat = [x.reshape(math.prod(rows), logits.shape[-1]) for x in (logits, expert.detach())]
    if fused(logits, CROSSOVER, LOOPS, on_gpu="eager"):
        losses: Tensor = _operation(*(x.contiguous() for x in flat))[0]
        return losses.reshape(rows)
    return reference(*flat).reshape(rows)


def flops(rows: int, vocabulary: int, backward: bool = False) -> int:
    """FLOPs: two exponentials and sums, a weighted difference, 7 a logit; backward 5."""
    return rows * vocabulary * (5 if backward else 7)


def traffic_bytes(rows: int, vocabulary: int, element_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: both logits once; backward the gradient too."""
    return rows * vocabulary * element_bytes * (3 if backward else 2)
