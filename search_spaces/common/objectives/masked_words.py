"""Masked words (MLM): which words of a text are hidden and by what, and the loss over those hidden.

Devlin et al. 2019 (BERT), section 3.1. The words are drawn from given noise. Names: B texts, L tokens, V words.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from naslab.search_spaces.common.objectives.fates import PUBLISHED, corrupted
from naslab.search_spaces.common.objectives.vocabulary_loss import vocabulary_loss
from naslab.search_spaces.data.text import IGNORED, SpecialIds


class MaskedWords(NamedTuple):
    """Texts with words hidden, and the labels (B, L): the hidden words, IGNORED elsewhere."""

    ids_BL: Tensor
    labels_BL: Tensor


def mask_words(
    ids_BL: Tensor,
    noise_BL3: Tensor,
    ratio: float,
    special: SpecialIds,
    vocabulary: int,
) -> MaskedWords:
    """Hide a share `ratio` of each text's words, at least one: 80 % by [MASK], 10 % by any word, 10 % stay.

    Args:
        ids_BL: texts with special tokens, which are never hidden.
        noise_BL3: uniform in [0, 1): which words, what with, and by which word.
    """
    words = special.are_words(ids_BL)
    rank = noise_BL3[..., 0].masked_fill(~words, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    hidden = words & (rank < hidden_words(words.sum(1), ratio)[:, None])
    _, fate_BL, word_BL = noise_BL3.unbind(-1)
    ids = corrupted(ids_BL, hidden, fate_BL, word_BL, PUBLISHED, special, vocabulary)
    return MaskedWords(ids, ids_BL.masked_fill(~hidden, IGNORED))


def hidden_words(words_B: Tensor, ratio: float) -> Tensor:
    """How many of each text's words are hidden: to the nearest, but one at least."""
    return (ratio * words_B).round().clamp(min=1)


def labelled_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean cross-entropy over what is labelled; 0 where nothing is."""
    return vocabulary_loss(logits_BLV, labels_BL, "sum") / (labels_BL != IGNORED).sum().clamp(min=1)
