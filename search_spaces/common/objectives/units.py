"""What is masked as one: characters, words, phrases of words, names, or random spans as long as the words.

All are numbers that rise along a text, -1 for what is never masked, made from the numbers of its words (see
`TextTokenizer.words`). Names: B texts, L tokens, U units.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from naslab.search_spaces.common.objectives.masked_units import unit_index, unit_lengths

Unit: TypeAlias = Literal["character", "word", "ngram", "entity", "span"]
UNITS: tuple[Unit, ...] = ("character", "word", "ngram", "entity", "span")
SEGMENTED = ("word", "ngram", "entity", "span")
"""Units for which words must be known; a name is a word of several words, so it needs their tags, too."""


def units_of(unit: Unit, words_BL: Tensor, noise_BL: Tensor, longest: int = 1) -> Tensor:
    """Numbers of the units, (B, L).

    Args:
        words_BL: numbers of the words, of names as one where `unit` is entity; -1 for special tokens.
        noise_BL: uniform in [0, 1); decides where phrases and spans begin.
        longest: words of the longest phrase.
    """
    match unit:
        case "character":
            places = torch.arange(words_BL.shape[1], device=words_BL.device)
            return torch.where(words_BL < 0, -1, places)
        case "word" | "entity":
            return words_BL
        case "ngram":
            return phrases(words_BL, noise_BL, longest)
        case "span":
            return spans(words_BL, noise_BL)


def phrases(words_BL: Tensor, noise_BL: Tensor, longest: int) -> Tensor:
    """Phrases of 1 to `longest` words side by side; of k words in proportion to `longest` + 1 - k.

    For four these are 40, 30, 20 and 10 %, as in MacBERT (Cui et al. 2020).
    """
    weights = torch.arange(longest, 0, -1, dtype=torch.double, device=words_BL.device)
    lengths_BU = 1 + torch.bucketize(noise_BL.double(), weights.cumsum(0) / weights.sum(), right=True)
    return _cut(unit_index(words_BL), lengths_BU.clamp(max=longest))


def spans(words_BL: Tensor, noise_BL: Tensor) -> Tensor:
    """Spans with the very lengths of the text's words, in random order: word lengths without words.

    They may reach over a special token inside the text, as that is no place of theirs.
    """
    index_BL = unit_index(words_BL)
    lengths_BU = unit_lengths(index_BL)
    noise_BU = noise_BL[:, : lengths_BU.shape[1]].masked_fill(lengths_BU == 0, torch.inf)
    shuffled_BU = lengths_BU.gather(1, noise_BU.argsort(dim=1, stable=True))
    places_BL = index_BL.ge(0).long().cumsum(1) - 1
    return _cut(places_BL.masked_fill(index_BL < 0, -1), shuffled_BU)


def _cut(index_BL: Tensor, lengths_BU: Tensor) -> Tensor:
    """Numbers 0, 1, ... of a text cut into runs of the given lengths, one after the other."""
    ends_BU = lengths_BU.cumsum(1)
    pieces = torch.searchsorted(ends_BU, index_BL.clamp(min=0).contiguous(), right=True)
    return pieces.masked_fill(index_BL < 0, -1)
