"""The closed formula for the contraction FLOPs of a forward; mixing of streams is pointwise."""

from __future__ import annotations

import math

from naslab.search_spaces.altup.model import Plan
from naslab.search_spaces.common import costs


def forward_flops(plan: Plan, batch_size: int, length: int, memory_length: int = 0) -> int:
    """FLOPs of one forward: `length` tokens of the decoder, `memory_length` of the encoder where there is one."""
    head = batch_size * costs.linear(length, plan.output_width, plan.vocabulary)
    decoder = _stack(plan, batch_size, length, causal=True, memory_length=memory_length)
    encoder = _stack(plan, batch_size, memory_length, causal=False) if memory_length else 0
    return 2 * (encoder + decoder + head)


def _stack(plan: Plan, batch: int, length: int, causal: bool, memory_length: int = 0) -> int:
    """Multiply-adds, as all below."""
    total = 0
    for index in range(plan.layers):
        kept = math.ceil(length / plan.stride_of(index, causal))
        total += batch * costs.attention(kept, plan.width)
        if memory_length:
            total += batch * costs.attention(kept, plan.width, memory_length, plan.output_width)
        total += _feed_forward(plan, index, batch * kept)
        total += _coefficients(plan, batch * length, branches=3 if memory_length else 2)
    return total


def _feed_forward(plan: Plan, index: int, tokens: int) -> int:
    """Three matrices of the gated layer, for each token or for each seat at an expert."""
    experts, d = plan.experts_of(index), plan.width
    dense = costs.mlp(tokens, d, plan.hidden, gated=True)
    if experts is None:
        return dense
    seats = experts.number * experts.capacity(tokens)
    sparse = costs.linear(tokens, d, experts.number) + costs.mlp(seats, d, experts.hidden, gated=True)
    return sparse + (dense if experts.partial else 0)


def _coefficients(plan: Plan, tokens: int, branches: int) -> int:
    """Routers of coefficients per token: two a layer in AltUp, one a branch and stream in Hyper-Connections."""
    k, d = plan.streams, plan.width
    if plan.coefficients == "static":
        return 0
    if plan.method == "hyper_connections":
        return branches * costs.linear(tokens, d, k * (k + 2))
    return tokens * (2 * d * k + k * k**2 + k * k) if plan.method in ("altup", "recycled") else 0
