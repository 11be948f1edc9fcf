"""The schedule of the learning rate: up along a line, down along half a cosine or another line."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer

Fall = Literal["cosine", "line"]


def learning_rate_share(progress: float, warmup: float, floor: float = 0.0, fall: Fall = "cosine") -> float:
    """Share of the base rate at `progress`, the part of the training that is done: step / steps, from 0 to 1.

    Linear from 0 at the first step to 1 at `warmup`, then half a cosine to `floor` (He et al. 2022; the same as
    transformers' cosine schedule with warm-up), or a line (transformers' linear schedule, BERT's).
    """
    if progress < warmup:
        return progress / warmup
    fallen = (progress - warmup) / (1 - warmup)
    falling = (1 + math.cos(math.pi * fallen)) / 2 if fall == "cosine" else 1 - fallen
    return floor + (1 - floor) * falling


def set_learning_rate(
    optimiser: Optimizer, progress: float, warmup: float, floor: float = 0.0, fall: Fall = "cosine"
) -> None:
    """Set the rate of every group to its share of the group's `base_lr`."""
    share = learning_rate_share(progress, warmup, floor, fall)
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * share
