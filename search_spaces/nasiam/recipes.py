"""How each framework is trained: optimiser, learning rate, schedule, as published for small images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from naslab.search_spaces.common.training.optimisers import scaled_rate
from naslab.search_spaces.common.training.schedule import learning_rate_share


@dataclass(frozen=True)
class Recipe:
    """`learning_rate` is for a batch of 256 where `scaled`, and then grows linearly with the batch."""

    optimiser: Literal["sgd", "adam"]
    learning_rate: float
    weight_decay: float
    scaled: bool = False
    cosine: bool = True
    fixed_predictor: bool = False
    """SimSiam: the predictor keeps the full learning rate, as the others follow the cosine."""

    def changed(self, learning_rate: float | None, weight_decay: float | None) -> Recipe:
        """The recipe with what a study file sets in place of the published values."""
        return replace(
            self,
            learning_rate=self.learning_rate if learning_rate is None else learning_rate,
            weight_decay=self.weight_decay if weight_decay is None else weight_decay,
        )


RECIPES: Mapping[str, Recipe] = {
    "simsiam": Recipe("sgd", 0.05, 1e-4, scaled=True, fixed_predictor=True),
    "simclr": Recipe("adam", 1e-3, 1e-6, cosine=False),
    "mocov2": Recipe("sgd", 0.06, 5e-4),
    "byol": Recipe("sgd", 0.06, 5e-4),
}
"""SimSiam, SimCLR and MoCo v2 from NASiam's published code; BYOL's (LARS there) takes MoCo's (inferred)."""


def make_optimiser(
    recipe: Recipe, model: nn.Module, parameters: list[nn.Parameter], batch_size: int
) -> torch.optim.Optimizer:
    """The recipe's optimiser in two groups; a group whose rate is scheduled carries `base_lr` and `cosine`."""
    rate = scaled_rate(recipe.learning_rate, batch_size) if recipe.scaled else recipe.learning_rate
    predictor = {id(p) for name, p in model.named_parameters() if "predictor" in name.split(".")}
    groups = [
        {
            "params": chosen,
            "base_lr": rate,
            "cosine": recipe.cosine and not (fixed and recipe.fixed_predictor),
        }
        for fixed in (False, True)
        if (chosen := [p for p in parameters if (id(p) in predictor) is fixed])
    ]
    if recipe.optimiser == "adam":
        return torch.optim.Adam(groups, lr=rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=recipe.weight_decay, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, progress: float) -> None:
    """Half-cosine from the base rate to 0 for the scheduled groups."""
    share = learning_rate_share(progress, warmup=0.0)
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * (share if group["cosine"] else 1.0)
