"""The best K of scored candidates, in their own order, and how gradients reach the scores.

Two estimators: `straight_through` (Gumbel noise; what is kept carries a gate of 1 whose gradient is that of its softmax
share), and `perturbed` (Cordonnier et al. 2021, as in STTS: the mean selection over noisy scores, a soft mixture of
candidates). Names: B rows, T candidates, K kept, S samples.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Estimator: TypeAlias = Literal["straight_through", "perturbed"]


class Chosen(NamedTuple):
    """What is kept (B, K), in its order, and what carries its gradient: gates (B, K) or soft rows (B, K, T)."""

    kept_BK: Tensor
    gates_BK: Tensor | None = None
    rows_BKT: Tensor | None = None

    def take(self, values: Tensor) -> Tensor:
        """The kept ones of (B, T, ...), as (B, K, ...)."""
        if self.rows_BKT is not None:
            mixed: Tensor = torch.bmm(self.rows_BKT.to(values.dtype), values.flatten(2))
            return mixed.reshape(*mixed.shape[:2], *values.shape[2:])
        index = self.kept_BK.reshape(*self.kept_BK.shape, *(1,) * (values.ndim - 2))
        taken = values.gather(1, index.expand(-1, -1, *values.shape[2:]))
        return taken if self.gates_BK is None else taken * self.gates_BK.reshape(index.shape)

    def shares(self, candidates: int) -> Tensor:
        """The share (B, T) of each of the candidates in the mean of what is kept."""
        keep = self.kept_BK.shape[1]
        if self.rows_BKT is not None:
            return self.rows_BKT.mean(1)
        gates = torch.ones_like(self.kept_BK, dtype=torch.float32) if self.gates_BK is None else self.gates_BK
        return gates.new_zeros(len(gates), candidates).scatter(1, self.kept_BK, gates / keep)


def choose(scores_BT: Tensor, keep: int, estimator: Estimator | None, samples: int, sigma: float) -> Chosen:
    """The `keep` candidates of best scores; noise is torch's generator's.

    Args:
        estimator: None: the plain best, without noise and without a gradient to the scores.
        samples, sigma: of the perturbed estimator, how many noisy selections, and the deviation of their noise.
    """
    if estimator is None:
        return Chosen(top_in_order(scores_BT, keep))
    if estimator == "perturbed":
        noise = torch.randn(len(scores_BT), samples, scores_BT.shape[1], device=scores_BT.device)
        rows: Any = PerturbedTopK.apply(scores_BT, noise, keep, sigma)
        return Chosen(top_in_order(scores_BT, keep), rows_BKT=rows)
    noisy = scores_BT - torch.empty_like(scores_BT).exponential_().clamp(min=1e-9).log()
    kept = top_in_order(noisy, keep)
    share = noisy.softmax(-1).gather(1, kept)
    return Chosen(kept, gates_BK=share - share.detach() + 1)


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
