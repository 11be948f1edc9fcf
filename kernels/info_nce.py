"""InfoNCE, MoCo's contrastive loss, without the similarity matrix in memory.

    loss = mean over rows i of  log(sum over j of exp(query_i . key_j / t)) - query_i . key_i / t

(He et al. 2020, equation 1): j runs over the query's own key, the positive, and over the K keys of a queue.

The queue gets no gradient, and all that the query's needs is the softmax-weighted mean of the queue, which the forward
takes along (as in attention): two products in all instead of three.

Names: B queries, D width, K keys in the queue, t temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.kernels import _native
from naslab.kernels._check import misfit, same_device
from naslab.kernels._dispatch import differentiable, fallback, full_precision, fused, mean_of, room_for, way
from naslab.kernels._similarity_tiles import (
    LOOPS,
    TILE,
    above_positive,
    check_rows,
    check_temperature,
    elements_from,
    logsumexp_kernel,
    on_gpu,
    parts,
    tile_of,
)

CROSSOVER = 2**19
"""Similarities from which the C++ loops win on a CPU (`naslab bench kernels`)."""
QUEUE_TILE = 1024
"""Columns of a tile on the CPU: with TILE rows it stays in the second-level cache."""


@full_precision
def reference_info_nce(query_BD: Tensor, key_BD: Tensor, queue_KD: Tensor, temperature: float, _: bool) -> Tensor:
    """The definition of InfoNCE."""
    positive_B1 = (query_BD * key_BD).sum(1, keepdim=True)
    logits = torch.cat([positive_B1, query_BD @ queue_KD.T], dim=1) / temperature
    first = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    return mean_of(F.cross_entropy(logits, first, reduction="none"))


@torch.library.custom_op("naslab::info_nce", mutates_args=())
def _info_nce(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float, attend: bool
) -> tuple[Tensor, Tensor, Tensor]:
    path = way(query, LOOPS)
    size = (query.shape[0] if attend else 0, query.shape[1])
    mean = query.new_zeros(size, dtype=torch.float32)
    if path == "reference":
        loss = reference_info_nce(query, key, queue, temperature, attend)
        return loss, mean, query.new_zeros(query.shape[0], dtype=torch.float32)
    positive_N = (query.float() * key.float()).sum(1) / temperature
    if not (query.shape[0] and queue.shape[0]):
        return positive_N.sum().to(query.dtype) * 0, mean, torch.zeros_like(positive_N)
    if path == "native":
        negatives_N = _queue_logsumexp(query, queue, temperature, mean)
        mean *= torch.sigmoid(negatives_N - positive_N)[: size[0], None]
    else:
        partial, means = logsumexp_kernel(query, queue, temperature, attend=attend)
        negatives_N = partial.logsumexp(0)
        if attend:
            lse_N = torch.logaddexp(negatives_N, positive_N)
            mean = (means * (partial - lse_N).exp_()[..., None]).sum(0)
    loss_N = above_positive(negatives_N, positive_N)
    return loss_N.mean().to(query.dtype), mean, torch.expm1(-loss_N)


@_info_nce.register_fake
def _(query: Tensor, key: Tensor, queue: Tensor, temperature: float, attend: bool) -> tuple[Tensor, Tensor, Tensor]:
    mean = query.new_empty(query.shape[0] if attend else 0, query.shape[1], dtype=torch.float32)
    return query.new_empty(()), mean, query.new_empty(query.shape[0], dtype=torch.float32)


@torch.library.custom_op("naslab::info_nce_backward", mutates_args=())
def _info_nce_backward(
    grad: Tensor, mean: Tensor, residual: Tensor, query: Tensor, key: Tensor, queue: Tensor, temperature: float,
    attend: bool, needed: list[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if way(query, LOOPS) == "reference" or not query.numel():
        dquery, dkey = fallback(reference_info_nce, needed, grad, query, key, queue, temperature, attend)
        return dquery, dkey
    if needed[0] and not attend:  # a gradient that the forward could not foresee
        _, mean, residual = _info_nce(query, key, queue, temperature, True)
    factor = grad.float() / (temperature * query.shape[0])
    factor_N1 = (residual * factor)[:, None]
    dquery = mean * factor + factor_N1 * key if needed[0] else query.new_empty(0)
    dkey = factor_N1 * query if needed[1] else key.new_empty(0)
    return dquery.to(query.dtype), dkey.to(key.dtype)


@_info_nce_backward.register_fake
def _(
    grad: Tensor, mean: Tensor, residual: Tensor, query: Tensor, key: Tensor, queue: Tensor, temperature: float,
    attend: bool, needed: list[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return room_for(query, needed[0]), room_for(key, needed[1])


def _queue_logsumexp(query: Tensor, queue: Tensor, temperature: float, mean: Tensor) -> Tensor:
    """Log-sum-exp over the queue; where `mean` has rows it receives the softmax-weighted mean of the queue."""
    tops, sums = query.new_full((query.shape[0],), float("-inf")), query.new_zeros(query.shape[0])
    buffer, width = query.new_empty(TILE * QUEUE_TILE), mean.shape[1] if mean.shape[0] else 0
    for j in parts(queue.shape[0], QUEUE_TILE):
        for i in parts(query.shape[0], TILE):
            tile = tile_of(buffer, query[i], queue[j])
            _native.call(LOOPS, "fold_rows", tile, tops[i], sums[i], mean[i], *tile.shape, width, 1 / temperature)
            if width:
                mean[i].addmm_(tile, queue[j])
    if width:
        mean /= sums[:, None]
    return tops + sums.log_()


_operation = differentiable("info_nce", reference_info_nce, leading=2)


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
    check_rows(query_BD, "query_BD")
    same = key_BD.shape == query_BD.shape and key_BD.is_floating_point()
    if not same:
        raise misfit("key_BD", key_BD, f"a floating {tuple(query_BD.shape)}")
    same_device("key_BD", key_BD, query_BD)
    width = query_BD.shape[1]
    fits = queue_KD.ndim == 2 and queue_KD.shape[1] == width and queue_KD.is_floating_point()
    if not fits:
        raise misfit("queue_KD", queue_KD, f"a floating (K, {width})")
    same_device("queue_KD", queue_KD, query_BD)
    check_temperature(temperature)
    dtype = torch.promote_types(torch.promote_types(query_BD.dtype, key_BD.dtype), queue_KD.dtype)
    query, key, queue = (t.to(dtype) for t in (query_BD, key_BD, queue_KD.detach()))
    attend = torch.is_grad_enabled() and query_BD.requires_grad
    if fused(query, elements_from(query, queue.shape[0], CROSSOVER), LOOPS, on_gpu(query)):
        tensors = (t.contiguous() for t in (query, key, queue))
        loss: Tensor = _operation(*tensors, float(temperature), attend)[0]
        return loss
    return reference_info_nce(query, key, queue, temperature, attend)


def contraction_flops(rows: int, keys: int, width: int, attend: bool) -> int:
    """FLOPs of the products with the queue: 1 forward, and 1 more where the forward prepares a gradient."""
    return 2 * (2 if attend else 1) * rows * keys * width


def pointwise_flops(rows: int, keys: int, width: int) -> int:
    """FLOPs of scale and softmax, as of attention, 6 a similarity; and of the products with the positives."""
    return 6 * rows * keys + 2 * rows * width


def traffic_bytes(rows: int, keys: int, width: int, element_bytes: int, backward: bool = False) -> int:
    """Bytes that must move: query, key and queue; backward query, key, the mean of the queue and two gradients."""
    return (5 * rows if backward else 2 * rows + keys) * width * element_bytes
