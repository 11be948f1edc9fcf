"""Random masking: which tokens are visible.

Source: He et al. 2022, section 3 ("simple implementation"): noise is ranked per sample, the lowest stay. What stays is
gathered, and put back among mask tokens, in `token_gather`.

Names: B batch, L tokens, K visible tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, no_type_check

import torch
from torch import Tensor

from naslab.kernels._check import misfit
from naslab.kernels._dispatch import fused, way
from naslab.kernels._triton import Launch, ceil_div, kernel, launch

if TYPE_CHECKING:
    import triton.language as tl

RANKED = {"any": Launch(128, rows=32), "gfx": Launch(128, rows=32, num_warps=4)}


class TokenMask(NamedTuple):
    """Indices (B, K) of the visible and (B, L - K) of the masked tokens, and the rank (B, L) of each token.

    A token is visible where its rank is below K; its rank is then its place among the visible.
    """

    visible_BK: Tensor
    masked_BM: Tensor
    rank_BL: Tensor


def reference_mask(noise_BL: Tensor, visible: int) -> TokenMask:
    """The definition: tokens in the order of their noise."""
    order_BL = noise_BL.argsort(dim=1, stable=True)
    places = torch.arange(noise_BL.shape[1], device=noise_BL.device).expand_as(order_BL)
    rank_BL = torch.empty_like(order_BL).scatter(1, order_BL, places)
    return TokenMask(order_BL[:, :visible].clone(), order_BL[:, visible:].clone(), rank_BL)


@kernel
@no_type_check
def rank_tokens(
    noise_ptr, visible_ptr, masked_ptr, rank_ptr, length, visible, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Rank of ROWS tokens of one sample: how many of its tokens have less noise, ties in order."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    own = tl.load(noise_ptr + b * length + i, mask=i < length, other=float("inf"))
    rank = tl.zeros((ROWS,), tl.int32)
    for start in range(0, length, BLOCK):
        j = start + tl.arange(0, BLOCK)
        other = tl.load(noise_ptr + b * length + j, mask=j < length, other=float("inf"))
        before = (other[None, :] < own[:, None]) | ((other[None, :] == own[:, None]) & (j[None, :] < i[:, None]))
        rank += tl.sum((before & (j < length)[None, :]).to(tl.int32), 1)
    tl.store(rank_ptr + b * length + i, rank.to(tl.int64), mask=i < length)
    tl.store(visible_ptr + b * visible + rank, i.to(tl.int64), mask=(i < length) & (rank < visible))
    masked = length - visible
    tl.store(masked_ptr + b * masked + rank - visible, i.to(tl.int64), mask=(i < length) & (rank >= visible))


@torch.library.custom_op("naslab::token_mask", mutates_args=())
def _mask(noise: Tensor, visible: int) -> tuple[Tensor, Tensor, Tensor]:
    if way(noise) == "reference":
        return reference_mask(noise, visible)
    batch, length = noise.shape
    outputs = tuple(noise.new_empty(batch, n, dtype=torch.int64) for n in (visible, length - visible, length))
    if noise.numel():
        size = launch("rank_tokens", noise.device, RANKED)
        rank_tokens[(batch, ceil_div(length, size.rows))](
            noise, *outputs, length, visible, ROWS=size.rows, BLOCK=size.block, num_warps=size.num_warps
        )
    return outputs[0], outputs[1], outputs[2]


@_mask.register_fake
def _(noise: Tensor, visible: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = noise.shape
    sizes = (visible, length - visible, length)
    first, second, third = (noise.new_empty(batch, n, dtype=torch.int64) for n in sizes)
    return first, second, third


def token_mask(noise_BL: Tensor, visible: int) -> TokenMask:
    """Keep the `visible` tokens of least noise in each sample, in the order of their noise.

    Args:
        noise_BL: one number per token, floating point without NaN; ties keep their order.
        visible: tokens to keep, 0 to L.

    Raises:
        ValueError: an argument does not fit.
    """
    if not (noise_BL.ndim == 2 and noise_BL.is_floating_point()):
        raise misfit("noise_BL", noise_BL, "a floating (B, L)")
    if not 0 <= visible <= noise_BL.shape[1]:
        raise ValueError(f"visible: {visible} is not 0 to {noise_BL.shape[1]} tokens")
    if not fused(noise_BL, 0):
        return reference_mask(noise_BL.detach(), visible)
    return TokenMask(*torch.ops.naslab.token_mask(noise_BL.detach().contiguous(), visible))
