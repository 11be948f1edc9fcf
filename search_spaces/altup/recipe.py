"""How the language models are trained: AdamW, its decay on matrices only, warm-up and a cosine to a tenth."""

from __future__ import annotations

import math

import torch
from torch import nn

BETAS = (0.9, 0.95)
FLOOR = 0.1
MIXING = 10
"""A matrix with a side up to this many mixes streams; it starts at the identity or at zero and does not decay."""


def make_optimiser(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; decay on the weights that multiply tokens, not on embeddings, norms and the mixing of streams."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    for parameter in model.parameters():
        multiplies = parameter.ndim >= 2 and min(parameter.shape[-2:]) > MIXING and id(parameter) not in tables
        (decayed if multiplies else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS)


def schedule(step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rate at a step from 0: up linearly, then down along a cosine to a tenth."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising) / max(steps - rising, 1)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
