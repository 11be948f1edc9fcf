"""Attention by matrix products, for short sequences in a reduced number format on a CPU.

PyTorch's fused attention there is made for long sequences: in bfloat16 its backward takes several times as long as the
products themselves, at 50 tokens most of a training step.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LONGEST = 256
"""Keys, up to which the matrix of weights is no larger than what a block keeps of its tokens anyway."""


def suits_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    enable_gqa: bool = False,
    **_: Any,
) -> bool:
    """Whether a call of `torch.nn.functional.scaled_dot_product_attention` is one for `explicit_attention`."""
    if attn_mask is not None and (is_causal or not (attn_mask.dtype == torch.bool or attn_mask.is_floating_point())):
        return False  # PyTorch says what is wrong
    if query.is_nested or not query.shape[-1]:
        return False
    return key.shape[-2] <= LONGEST and not enable_gqa and query.device.type == "cpu"


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: Literal[False] = False,
) -> Tensor:
    """What `torch.nn.functional.scaled_dot_product_attention` says, (..., T, K); the softmax is in float32 at least.

    A query that sees no key gets zeros, as there.

    Args:
        query: (..., T, K).
        key, value: (..., S, K).
        attn_mask: True where a query sees a key, or what is added to their product: broadcast to (..., T, S).
        enable_gqa: grouped queries are PyTorch's.
    """
    if is_causal:
        attn_mask = query.new_ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    blind = None
    if attn_mask is not None:
        added = attn_mask
        if attn_mask.dtype == torch.bool:
            added = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill(~attn_mask, -torch.inf)
        blind = added.isneginf().all(-1, keepdim=True)
        scores = scores + added.masked_fill(blind, 0)  # a softmax of nothing has no gradient
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    if blind is not None:
        weights = weights.masked_fill(blind, 0)
    return F.dropout(weights, dropout_p).to(value.dtype) @ value
