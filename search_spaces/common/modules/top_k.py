"""The best K of scores, in their own order, and a gradient for them by noise.

Names: B rows, T candidates, K chosen, S samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def top_in_order(scores: Tensor, keep: int) -> Tensor:
    """Indices (..., K) of the best of the last dimension, in order of index."""
    return scores.topk(keep, -1).indices.sort(-1).values


class PerturbedTopK(torch.autograd.Function):
    """Mean indicator (B, K, T) of the top K, in order of index, under Gaussian noise (Berthet et al. 2020)."""

    @staticmethod
    def forward(ctx: Any, scores_BT: Tensor, noise_BST: Tensor, keep: int, sigma: float) -> Tensor:
        """Sample selections."""
        frames_BSK = top_in_order(scores_BT[:, None] + sigma * noise_BST, keep)
        picked_BSKT = F.one_hot(frames_BSK, scores_BT.shape[1]).to(scores_BT.dtype)
        ctx.save_for_backward(picked_BSKT, noise_BST)
        ctx.sigma = sigma
        return picked_BSKT.mean(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Covariance of what the selections are worth with the noise that made them."""
        picked_BSKT, noise_BST = ctx.saved_tensors
        worth_BS = torch.einsum("bskt,bkt->bs", picked_BSKT, gradients[0])
        return torch.einsum("bs,bst->bt", worth_BS, noise_BST) / (ctx.sigma * noise_BST.shape[1]), None, None, None
