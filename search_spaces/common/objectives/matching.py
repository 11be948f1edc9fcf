"""Matching (ITM): whether a text fits what it stands beside, against hard negatives of the same batch.

Li et al. 2021 (ALBEF, arXiv 2107.07651), section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.common.objectives.float32 import in_float32


class Negatives(NamedTuple):
    """For each text a wrong video, for each video a wrong text, (B,); `valid` where there is one at all."""

    video_B: Tensor
    text_B: Tensor
    valid_B: Tensor


def hard_negatives(similarity_BB: Tensor, same_BB: Tensor, noise_B2: Tensor) -> Negatives:
    """One negative for each text and each video, drawn in proportion to the softmax of the similarity.

    Args:
        similarity_BB: texts in rows, videos in columns.
        same_BB: pairs that are no negatives: a text's own video and those of equal texts.
        noise_B2: uniform in [0, 1).
    """
    valid = ~same_BB.all(1)
    similarity = similarity_BB.detach().masked_fill(same_BB, torch.finfo(similarity_BB.dtype).min)
    video = _draw(similarity.softmax(1), noise_B2[:, 0])
    return Negatives(video, _draw(similarity.T.softmax(1), noise_B2[:, 1]), valid)


def _draw(share_BB: Tensor, noise_B: Tensor) -> Tensor:
    """The first column at which the sum of shares passes the noise; its own share is then above 0."""
    passed = share_BB.cumsum(1)
    below = passed <= noise_B[:, None].clamp(max=1 - 1e-6) * passed[:, -1:]
    return below.sum(1).clamp(max=share_BB.shape[1] - 1)


@in_float32
def matching_loss(logits_3B2: Tensor, valid_B: Tensor) -> Tensor:
    """Cross-entropy of "fits" (1) for the pairs, "does not" (0) for both sorts of negatives where there are any."""
    batch = len(valid_B)
    truth = torch.cat([torch.ones_like(valid_B), *[torch.zeros_like(valid_B)] * 2]).long()
    weight = torch.cat([torch.ones_like(valid_B), valid_B, valid_B]).to(logits_3B2.dtype)
    assert len(logits_3B2) == 3 * batch
    return (F.cross_entropy(logits_3B2, truth, reduction="none") * weight).sum() / weight.sum()
