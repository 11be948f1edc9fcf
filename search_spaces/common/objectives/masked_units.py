"""Which tokens of a text are hidden, whole units at a time, under an exact budget, and by what.

The budget and the way it is filled are those of BERT's generator (Devlin et al. 2019, `create_pretraining_data.py` with
whole-word masking): units in random order, each taken unless it would pass the budget. The fates 80/10/10 are drawn for
each token, as by the authors of Chinese whole-word masking (Cui et al. 2021), or once for a unit. All is a function of
given noise. Names: B texts, L tokens, U units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.common.objectives.fates import Fates, corrupted
from naslab.search_spaces.data.text import IGNORED, SpecialIds


@dataclass(frozen=True)
class Budget:
    """How many of a text's tokens are hidden: a share, to the nearest, one at least and `most` at most.

    Raises:
        InputError: a rate that is no share, or `most` below 1.
    """

    rate: float
    most: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InputError(f"budget: a rate of {self.rate:g} is no share above 0 and up to 1")
        if self.most is not None and self.most < 1:
            raise InputError(f"budget: at most {self.most} hidden tokens; use 1 or more, or None")

    def of(self, tokens: int) -> int:
        """Of a text of so many tokens, special ones included."""
        number = max(1, round(tokens * self.rate))
        return number if self.most is None else min(number, self.most)

    def of_all(self, tokens_B: Tensor) -> Tensor:
        """Of each text, (B,), int64."""
        return (tokens_B.double() * self.rate).round().long().clamp(1, self.most)


class Masked(NamedTuple):
    """Texts as a model reads them, and what it is to predict (B, L): the hidden tokens, IGNORED elsewhere."""

    ids_BL: Tensor
    labels_BL: Tensor


def mask_units(
    ids_BL: Tensor,
    index_BL: Tensor,
    noise_4BL: Tensor,
    budget: Budget,
    fates: Fates,
    special: SpecialIds,
    vocabulary: int,
) -> Masked:
    """Hide whole units.

    Args:
        ids_BL: texts with special tokens and padding.
        index_BL: number of each token's unit, by `unit_index` or `run_index`; -1 for what is never hidden.
        noise_4BL: uniform in [0, 1): order of the units, fates of units, fates of tokens, random tokens.
    """
    order_BL, of_units_BL, fate_BL, word_BL = noise_4BL
    hidden_BL = choose_units(index_BL, order_BL, budget.of_all(ids_BL.ne(special.pad).sum(1)))
    if fates.of == "unit":
        fate_BL = of_units_BL.gather(1, index_BL.clamp(min=0))
    ids = corrupted(ids_BL, hidden_BL, fate_BL, word_BL, fates, special, vocabulary)
    return Masked(ids, torch.where(hidden_BL, ids_BL, IGNORED))


def run_index(words_BL: Tensor) -> Tensor:
    """Runs of equal numbers counted from 0 in each text, (B, L); -1 stays, and ends a run.

    So word numbers that begin anew, as those of a second text behind the first, are other words.
    """
    before_BL = torch.cat([torch.full_like(words_BL[:, :1], -1), words_BL[:, :-1]], 1)
    begins_BL = (words_BL >= 0) & (words_BL != before_BL)
    return (begins_BL.cumsum(1) - 1).masked_fill(words_BL < 0, -1)


def unit_index(units_BL: Tensor) -> Tensor:
    """Units counted from 0 in each text, (B, L), by numbers that rise along it; -1 stays."""
    before_BL = torch.cat([torch.full_like(units_BL[:, :1], -1), units_BL.cummax(1).values[:, :-1]], 1)
    return ((units_BL > before_BL).cumsum(1) - 1).masked_fill(units_BL < 0, -1)


def unit_lengths(index_BL: Tensor) -> Tensor:
    """Tokens of each unit of `unit_index`, (B, U), 0 beyond a text's last; U is the most units of a text."""
    number = max(int(index_BL.max()) + 1 if index_BL.numel() else 0, 1)
    lengths = torch.zeros(len(index_BL), number, dtype=torch.long, device=index_BL.device)
    return lengths.scatter_add(1, index_BL.clamp(min=0), index_BL.ge(0).long())


def choose_units(index_BL: Tensor, order_BL: Tensor, budget_B: Tensor) -> Tensor:
    """Tokens that are hidden, (B, L): of units in the order of their noise, each that does not pass what is left.

    A loop over units would go through them one by one. Here all that fit side by side are taken at once, then those
    that still fit, as often as a unit was too long: the longest unit's length bounds the rounds. Two units for each
    token of the budget are nearly always more than it takes to fill it, so only so many are put in order at first.

    Args:
        order_BL: the noise of a text's unit number u stands at its place u.
    """
    if index_BL.numel() == 0:
        return index_BL >= 0
    lengths_BU = unit_lengths(index_BL)
    number = lengths_BU.shape[1]
    # Equal noise goes by the unit's number, on every device.
    turn_U = torch.arange(number, device=index_BL.device).double() * 2.0**-40
    noise_BU = (order_BL[:, :number] + turn_U).masked_fill(lengths_BU == 0, torch.inf)
    for candidates in (min(number, 2 * int(budget_B.max())), number):
        order_BC = noise_BU.topk(candidates, largest=False).indices
        ordered_BC = lengths_BU.gather(1, order_BC)
        taken_BC = _taken(ordered_BC, budget_B)
        if candidates == number or not ((ordered_BC * taken_BC).sum(1) < budget_B).any():
            break
    chosen_BU = torch.zeros_like(lengths_BU, dtype=torch.bool).scatter(1, order_BC, taken_BC)
    return chosen_BU.gather(1, index_BL.clamp(min=0)) & (index_BL >= 0)


def _taken(lengths_BU: Tensor, budget_B: Tensor) -> Tensor:
    """Which units are taken, (B, U), of those in a row, each where it does not pass what is left of the budget."""
    left_B1 = budget_B[:, None]
    taken_BU = torch.zeros_like(lengths_BU, dtype=torch.bool)
    while True:
        fitting_BU = ~taken_BU & (lengths_BU > 0) & (lengths_BU <= left_B1)
        reached_BU = (lengths_BU * fitting_BU).cumsum(1)
        new_BU = fitting_BU & (reached_BU <= left_B1)
        if not new_BU.any():
            return taken_BU
        taken_BU |= new_BU
        left_B1 = left_B1 - (lengths_BU * new_BU).sum(1, keepdim=True)
