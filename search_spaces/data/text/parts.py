"""Parts of a data set of which none are set apart: the test part never depends on a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from naslab.search_spaces.data.datasets import balanced_order

SHARE = 10
"""One of so many is held out."""


def set_apart(labels: Tensor, number: int | None) -> tuple[Tensor, Tensor]:
    """The rest, and `number` indices (None: a tenth) as even over the classes as it can be; the same every time."""
    order = balanced_order(labels, torch.Generator().manual_seed(0))
    cut = min(number or max(1, len(labels) // SHARE), len(labels))
    return order[cut:].sort().values, order[:cut].sort().values


def held_out_parts(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """The rest and a tenth, drawn by the seed."""
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    cut = max(1, number // SHARE)
    return order[cut:].sort().values, order[:cut].sort().values
