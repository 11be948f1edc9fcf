"""Attention on meta tensors, counted as the fused operation that a CPU runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class FusedOnMeta(TorchFunctionMode):
    """Calls the fused attention on meta, where torch takes `scaled_dot_product_attention` apart into products, so
    that a count does not depend on whether the weights are there.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    fused = query.is_meta and query.ndim == 4 and query.shape[-1] == value.shape[-1] and query.is_floating_point()
    if not fused:
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    given = dict(zip(("attn_mask", "dropout_p", "is_causal"), args, strict=False)) | kwargs
    mask = given.get("attn_mask")
    if mask is not None and mask.requires_grad and torch.is_grad_enabled():
        # No fused operation gives a learned mask its gradient; on a CPU, too, torch then takes attention apart.
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    if mask is not None and mask.dtype == torch.bool:
        mask = mask.to(query.dtype)
    outputs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, bool(given.get("is_causal", False)), attn_mask=mask, scale=given.get("scale")
    )
    attended: Tensor = outputs[0]
    return attended
