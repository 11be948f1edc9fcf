"""Masked words (MLM): which words of a text are hidden and by what, and the loss over those hidden.

Devlin et al. 2019 (BERT), section 3.1. The words are drawn from given noise. Names: B texts, L tokens, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.data.text import IGNORED, SpecialIds


class MaskedWords(NamedTuple):
    """Texts with words hidden, and the labels (B, L): the hidden words, IGNORED elsewhere."""

    ids_BL: Tensor
    labels_BL: Tensor


def mask_words(ids_BL: Tensor, noise_BL3: Tensor, ratio: float, special: SpecialIds, vocabulary: int) -> MaskedWords:
    """Hide a share `ratio` of each text's words, at least one: 80 % by [MASK], 10 % by any word, 10 % stay.

    Args:
        ids_BL: texts with special tokens, which are never hidden.
        noise_BL3: uniform in [0, 1): which words, what with, and by which word.
    """
    words = torch.ones_like(ids_BL, dtype=torch.bool)
    for number in (special.pad, special.cls, special.sep):
        words &= ids_BL != number
    rank = noise_BL3[..., 0].masked_fill(~words, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    hidden = words & (rank < hidden_words(words.sum(1), ratio)[:, None])
    how = noise_BL3[..., 1]
    first = special.first_word
    other = (first + noise_BL3[..., 2] * (vocabulary - first)).long().clamp(max=vocabulary - 1)
    ids = torch.where(hidden & (how < 0.8), special.mask, ids_BL)
    ids = torch.where(hidden & (how >= 0.8) & (how < 0.9), other, ids)
    return MaskedWords(ids, ids_BL.masked_fill(~hidden, IGNORED))


def hidden_words(words_B: Tensor, ratio: float) -> Tensor:
    """How many of each text's words are hidden: to the nearest, but one at least."""
    return (ratio * words_B).round().clamp(min=1)


def labelled_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean cross-entropy over what is labelled; 0 where nothing is."""
    count = (labels_BL != IGNORED).sum().clamp(min=1)
    summed = F.cross_entropy(logits_BLV.flatten(0, -2), labels_BL.flatten(), ignore_index=IGNORED, reduction="sum")
    return summed / count
