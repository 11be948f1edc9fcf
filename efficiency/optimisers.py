"""Optimisers by name, with settings that do not affect the cost of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from naslab.errors import InputError

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adafactor": torch.optim.Adafactor,
}


def optimiser_named(name: str) -> Callable[[Iterable[nn.Parameter]], Any]:
    """What makes the optimiser called `name` from parameters.

    Raises:
        InputError: no such name.
    """
    if name.lower() not in OPTIMISERS:
        raise InputError(f"optimiser: {name!r} is unknown; use {', '.join(OPTIMISERS)}")
    return OPTIMISERS[name.lower()]
