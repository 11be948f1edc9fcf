"""What tells that an embedding has collapsed."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def feature_std(z_BD: Tensor) -> float:
    """Mean over channels of the deviation of the L2-normalised rows, times sqrt(D): 1 healthy, 0 collapsed.

    Chen & He 2021 (SimSiam), section 4.1. NaN of a single row, which has no deviation.
    """
    if len(z_BD) < 2:
        return math.nan
    normalised = F.normalize(z_BD.float(), dim=1)
    return float(normalised.std(0).mean() * z_BD.shape[1] ** 0.5)


def effective_rank(z_BD: Tensor) -> float:
    """exp of the entropy of the normalised singular values (RankMe, Garrido et al. 2023, equation 1)."""
    singular = torch.linalg.svdvals(z_BD.float())
    shares = singular / singular.sum().clamp(min=1e-12)
    entropy = -(shares * (shares + 1e-12).log()).sum()
    return float(entropy.exp())
