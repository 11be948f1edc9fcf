"""Relaxations: from architecture parameters (layers, candidates) to mixing weights of the same shape."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.nas.arms import Differentiable
from naslab.search_spaces.supernet import Relaxation


def softmax(alpha_LO: Tensor) -> Tensor:
    """DARTS (Liu et al. 2019), equation 2: the weights of a layer sum to one."""
    return alpha_LO.softmax(-1)


def sigmoid(alpha_LO: Tensor) -> Tensor:
    """FairDARTS (Chu et al. 2020): every candidate by itself, so that none gains by another's loss."""
    return alpha_LO.sigmoid()


class Gumbel:
    """Gumbel-softmax samples: soft as in SNAS (Xie 2019), or one-hot with a straight-through gradient as in GDAS
    (Dong & Yang 2019). The noise comes from torch's global generator. `temperature` is lowered as the search goes.
    """

    def __init__(self, hard: bool, temperature: float, device: torch.device | None = None) -> None:
        self.hard = hard
        self.temperature = torch.tensor(temperature, device=device)  # a recorded step reads it there

    def __call__(self, alpha_LO: Tensor) -> Tensor:
        """One sample per layer."""
        return F.gumbel_softmax(alpha_LO, tau=cast(float, self.temperature), hard=self.hard, dim=-1)


def discrete(alpha_LO: Tensor) -> Tensor:
    """One-hot at each layer's largest parameter: the supernet as the genotype will be built."""
    return F.one_hot(alpha_LO.argmax(-1), alpha_LO.shape[-1]).to(alpha_LO.dtype)


def make_relaxation(arm: Differentiable, device: torch.device | None = None) -> Relaxation:
    """The relaxation that the arm names, of alphas on a device."""
    match arm.relaxation:
        case "softmax":
            return softmax
        case "sigmoid":
            return sigmoid
        case "gumbel":
            return Gumbel(arm.gumbel_hard, arm.temperature[0], device)


def anneal(relaxation: Relaxation, arm: Differentiable, progress: float) -> None:
    """Lower a Gumbel temperature geometrically; `progress` from 0 to 1. Other relaxations have none."""
    if isinstance(relaxation, Gumbel):
        start, end = arm.temperature
        relaxation.temperature.fill_(start * (end / start) ** progress)


def shares(alpha_LO: Tensor, arm: Differentiable) -> Tensor:
    """The weights without noise, normalised to one per layer: what entropy and skip share are computed from."""
    weights = alpha_LO.sigmoid() if arm.relaxation == "sigmoid" else alpha_LO.softmax(-1)
    return weights / weights.sum(-1, keepdim=True)


def entropy(shares_LO: Tensor) -> Tensor:
    """Entropy of each layer's shares over the largest possible, (layers,): 1 undecided, 0 decided."""
    largest = torch.log(torch.tensor(float(shares_LO.shape[-1])))
    return -torch.xlogy(shares_LO, shares_LO).sum(-1) / largest
