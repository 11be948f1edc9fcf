"""Parts of a data set of which none are set apart: the test part never depends on a seed."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from naslab.errors import InputError
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


def without(chosen: Tensor, others: Tensor, samples: Sequence[Hashable], where: str) -> Tensor:
    """Those of the chosen indices whose sample does not stand among the others, too: what is scored is not learned.

    Raises:
        InputError: none is left, or there was none; `where` is the option that names the data.
    """
    if not len(chosen):
        raise InputError(f"{where}: {len(samples)} samples are too few for three parts")
    there = {samples[i] for i in others.tolist()}
    kept = [i for i in chosen.tolist() if samples[i] not in there]
    if not kept:
        raise InputError(f"{where}: every sample to learn from stands among those held out, too; remove repeats")
    return torch.tensor(kept)


def warn_of_repeats(learned: Sequence[Hashable], scored: Sequence[Hashable], where: str) -> None:
    """Tell the user how many samples of a part that they gave themselves stand in training, too."""
    there = set(learned)
    if number := sum(sample in there for sample in scored):
        warnings.warn(
            f"{where}: {number} of {len(scored)} stand in training, too; scores may be too good", stacklevel=2
        )
