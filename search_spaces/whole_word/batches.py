"""Windows of a row of tokens with their masks; each batch is a function of seed and step.

Names: B windows, L tokens, M masked tokens, T tokens of the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from naslab.search_spaces.common.objectives.hidden_places import hidden_places
from naslab.search_spaces.common.objectives.masked_units import Masked, mask_units, unit_index
from naslab.search_spaces.common.objectives.units import units_of
from naslab.search_spaces.data.text import IGNORED, Batch, SpecialIds, window_starts
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.whole_word.model import Plan

NOISES = 5
"""Uniform numbers a token: one for its unit's beginning, four for `mask_units`."""


@dataclass(frozen=True)
class Windows:
    """How a row is cut: `length` tokens, [CLS] the first. No window has padding."""

    length: int
    special: SpecialIds
    vocabulary: int

    @property
    def span(self) -> int:
        """Tokens of the row in a window."""
        return self.length - 1

    def at(self, starts_B: Tensor, ids_T: Tensor, words_T: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and the numbers of their words, both (B, L)."""
        places = starts_B[:, None] + torch.arange(self.span)
        return _led(ids_T[places], self.special.cls), _led(words_T[places], -1)

    def all_of(self, ids_T: Tensor, words_T: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """The row's windows side by side, at most so many, evenly taken."""
        number = len(ids_T) // self.span
        chosen = torch.arange(min(most, number)) * number // min(most, number)
        return self.at(chosen * self.span, ids_T, words_T)

    def drawn(
        self, ids_T: Tensor, words_T: Tensor, plan: Plan, batch_size: int, seed: int, step: int, per_pass: int
    ) -> Batch:
        """The masked batch of a training step: the arguments of a model's loss."""
        starts = window_starts(len(ids_T), self.span, batch_size, seed, step, per_pass)
        ids_BL, words_BL = self.at(starts, ids_T, words_T)
        generator = torch.Generator().manual_seed(derive_seed(seed, "mask", step))
        masked = self.masked(ids_BL, words_BL, plan, generator)
        return packed(masked, plan.budget.of(self.length))

    def masked(self, ids_BL: Tensor, words_BL: Tensor, plan: Plan, generator: torch.Generator) -> Masked:
        """Texts with units of the plan hidden; the generator's numbers decide which, whatever the plan."""
        noise = torch.rand(NOISES, *ids_BL.shape, generator=generator)
        index_BL = unit_index(units_of(plan.unit, words_BL, noise[0], plan.longest))
        return mask_units(ids_BL, index_BL, noise[1:], plan.budget, plan.fates, self.special, self.vocabulary)


def packed(masked: Masked, most: int) -> Batch:
    """A mask as places and labels (B, M) of at most so many hidden tokens a text; IGNORED fills up.

    The weights (B,) are such that the mean over texts is one over hidden tokens, in parts of the batch, too.
    """
    places_BM, labels_BM = hidden_places(masked.labels_BL, most)
    texts, hidden = len(labels_BM), int((labels_BM != IGNORED).sum())
    weight_B = torch.full((texts,), texts / max(hidden, 1))
    return {"ids_BL": masked.ids_BL, "places_BM": places_BM, "labels_BM": labels_BM, "weight_B": weight_B}


def _led(rows: Tensor, first: int) -> Tensor:
    return torch.nn.functional.pad(rows, (1, 0), value=first)
