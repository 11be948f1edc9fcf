"""The closed formula for the contraction FLOPs of a forward; a multiply-add is 2, mixing of streams is pointwise."""

from __future__ import annotations

import math

from naslab.search_spaces.altup.model import Plan


def forward_flops(plan: Plan, batch_size: int, length: int, memory_length: int = 0) -> int:
    """FLOPs of one forward: `length` tokens of the decoder, `memory_length` of the encoder where there is one."""
    head = 2 * batch_size * length * plan.vocabulary * plan.output_width
    decoder = _stack(plan, batch_size, length, causal=True, memory_length=memory_length)
    encoder = _stack(plan, batch_size, memory_length, causal=False) if memory_length else 0
    return encoder + decoder + head


def _stack(plan: Plan, batch: int, length: int, causal: bool, memory_length: int = 0) -> int:
    total = 0
    for index in range(plan.layers):
        kept = math.ceil(length / plan.stride_of(index, causal))
        total += _attention(plan, batch, kept, kept, plan.width)
        if memory_length:
            total += _attention(plan, batch, kept, memory_length, plan.output_width)
        total += _feed_forward(plan, index, batch * kept)
        total += _coefficients(plan, batch * length, branches=3 if memory_length else 2)
    return total


def _attention(plan: Plan, batch: int, queries: int, keys: int, key_width: int) -> int:
    """Query and output projections, key and value projections, scores and weighted values."""
    d = plan.width
    return batch * (4 * queries * d * d + 4 * keys * key_width * d + 4 * queries * keys * d)


def _feed_forward(plan: Plan, index: int, tokens: int) -> int:
    """Three matrices of the gated layer, for each token or for each seat at an expert."""
    experts, d = plan.experts_of(index), plan.width
    dense = 6 * tokens * d * plan.hidden
    if experts is None:
        return dense
    seats = experts.number * experts.capacity(tokens)
    sparse = 2 * tokens * d * experts.number + 6 * seats * d * experts.hidden
    return sparse + (dense if experts.partial else 0)


def _coefficients(plan: Plan, tokens: int, branches: int) -> int:
    """Routers of coefficients per token: two a layer in AltUp, one a branch and stream in Hyper-Connections."""
    k, d = plan.streams, plan.width
    if plan.coefficients == "static":
        return 0
    if plan.method == "hyper_connections":
        return branches * 2 * tokens * k * d * (k + 2)
    return 2 * tokens * (2 * d * k + k * k**2 + k * k) if plan.method in ("altup", "recycled") else 0
