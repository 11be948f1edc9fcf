"""The contrastive, matching and masked-language losses, and how their masks and negatives are drawn from given noise.

Names: B clips with a text each, L tokens of a text, V words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.data.text import SpecialIds

IGNORED = -100
"""Label of what carries no loss."""


class MaskedWords(NamedTuple):
    """Texts with words hidden, and the labels (B, L): the hidden words, IGNORED elsewhere."""

    ids_BL: Tensor
    labels_BL: Tensor


class Negatives(NamedTuple):
    """For each text a wrong video, for each video a wrong text, (B,); `valid` where there is one at all."""

    video_B: Tensor
    text_B: Tensor
    valid_B: Tensor


def same_text(ids_BL: Tensor) -> Tensor:
    """Which texts of a batch are equal, (B, B): a clip with another's very caption is no negative for it."""
    return (ids_BL[:, None] == ids_BL[None]).all(-1)


def contrastive_loss(similarity_BB: Tensor, same_BB: Tensor) -> Tensor:
    """Both directions of the cross-entropy between texts (rows) and videos (columns); equal texts share the target."""
    target = same_BB / same_BB.sum(1, keepdim=True)
    return (
        -((target * similarity_BB.log_softmax(1)).sum(1) + (target * similarity_BB.T.log_softmax(1)).sum(1)).mean() / 2
    )


def hard_negatives(similarity_BB: Tensor, same_BB: Tensor, noise_B2: Tensor) -> Negatives:
    """One negative for each text and each video, drawn in proportion to the softmax of the similarity (ALBEF)."""
    valid = ~same_BB.all(1)
    similarity = similarity_BB.detach().masked_fill(same_BB, torch.finfo(similarity_BB.dtype).min)
    video = _draw(similarity.softmax(1), noise_B2[:, 0])
    return Negatives(video, _draw(similarity.T.softmax(1), noise_B2[:, 1]), valid)


def _draw(share_BB: Tensor, noise_B: Tensor) -> Tensor:
    """The first column at which the sum of shares passes the noise; its own share is then above 0."""
    passed = share_BB.cumsum(1)
    below = passed <= noise_B[:, None].clamp(max=1 - 1e-6) * passed[:, -1:]
    return below.sum(1).clamp(max=share_BB.shape[1] - 1)


def matching_loss(logits_3B2: Tensor, valid_B: Tensor) -> Tensor:
    """Cross-entropy of "fits" (1) for the pairs, "does not" (0) for both sorts of negatives where there are any."""
    batch = len(valid_B)
    truth = torch.cat([torch.ones_like(valid_B), *[torch.zeros_like(valid_B)] * 2]).long()
    weight = torch.cat([torch.ones_like(valid_B), valid_B, valid_B]).to(logits_3B2.dtype)
    assert len(logits_3B2) == 3 * batch
    return (F.cross_entropy(logits_3B2, truth, reduction="none") * weight).sum() / weight.sum()


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
    count = (ratio * words.sum(1)).round().clamp(min=1)
    hidden = words & (rank < count[:, None])
    how = noise_BL3[..., 1]
    first = special.first_word
    other = (first + noise_BL3[..., 2] * (vocabulary - first)).long().clamp(max=vocabulary - 1)
    ids = torch.where(hidden & (how < 0.8), special.mask, ids_BL)
    ids = torch.where(hidden & (how >= 0.8) & (how < 0.9), other, ids)
    return MaskedWords(ids, ids_BL.masked_fill(~hidden, IGNORED))


def labelled_loss(logits_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean cross-entropy over what is labelled; 0 where nothing is."""
    count = (labels_BL != IGNORED).sum().clamp(min=1)
    summed = F.cross_entropy(logits_BLV.flatten(0, -2), labels_BL.flatten(), ignore_index=IGNORED, reduction="sum")
    return summed / count
