"""What may be added to the alpha loss against the known failures of differentiable search."""

from __future__ import annotations

import torch
from torch import Tensor

from naslab.nas.arms import Differentiable
from naslab.nas.differentiable.relaxation import entropy, shares
from naslab.search_spaces import Supernet


def penalty(supernet: Supernet, arm: Differentiable, progress: float | Tensor) -> Tensor:
    """Sum of the arm's penalties at `progress` (0 to 1) of the search; zero where all weights are zero.

    - entropy, weight raised linearly from 0: explore first, decide at the end;
    - share of the parameter-free candidates, faded linearly to 0: they win early because they train fastest;
    - FairDARTS's zero-one loss -mean((sigmoid(alpha) - 1/2)^2), constant (Chu et al. 2020, equation 6).
    """
    total = torch.zeros((), device=next(iter(supernet.alphas.values())).device)
    for name, alpha in supernet.alphas.items():
        layer_shares = shares(alpha, arm)
        if arm.entropy_weight:
            total = total + progress * arm.entropy_weight * entropy(layer_shares).mean()
        if arm.skip_weight:
            skipping = supernet.skipping(name)
            total = total + (1 - progress) * arm.skip_weight * (layer_shares * skipping).sum(-1).mean()
        if arm.zero_one_weight:
            total = total - arm.zero_one_weight * (alpha.sigmoid() - 0.5).square().mean()
    return total
