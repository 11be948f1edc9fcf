"""Scores of retrieval between texts and videos: recall among the first k, and the median rank, both ways.

Ties share their places: a rank is the expected one when equal similarities are ordered at random, so that a model
which finds everything alike scores what chance does.
"""

from __future__ import annotations

import torch
from torch import Tensor

RECALLS = (1, 5, 10)


def retrieval_scores(similarity_QV: Tensor, clips_Q: Tensor) -> dict[str, float]:
    """Recalls in percent and median ranks (1 is best); `video_to_text_` marks the way back.

    A text has one right video. A video's right texts are all of its captions, of which the best ranked counts.

    Args:
        similarity_QV: texts in rows, videos in columns.
        clips_Q: the right video of each text.
    """
    right = similarity_QV.gather(1, clips_Q[:, None])
    found = _scores((similarity_QV > right).sum(1), (similarity_QV == right).sum(1) - 1)
    own_QV = torch.arange(similarity_QV.shape[1], device=clips_Q.device)[None] == clips_Q[:, None]
    described = own_QV.any(0)
    wrong = similarity_QV.masked_fill(own_QV, -torch.inf)[:, described]
    best = similarity_QV.masked_fill(~own_QV, -torch.inf)[:, described].amax(0)
    back = _scores((wrong > best).sum(0), (wrong == best).sum(0))
    scores = {**found, **{f"video_to_text_{name}": value for name, value in back.items()}}
    recalls = [value for name, value in scores.items() if "recall" in name]
    return {**scores, "mean_recall": sum(recalls) / len(recalls)}


def chance_scores(clips_Q: Tensor, videos: int) -> dict[str, float]:
    """What a model scores that finds every pair alike."""
    return retrieval_scores(torch.zeros(len(clips_Q), videos), clips_Q)


def _scores(better: Tensor, equal: Tensor) -> dict[str, float]:
    """From how many candidates are better than the right one, and how many others equal to it."""
    better, equal = better.double(), equal.double()
    recalls = {f"recall_at_{k}": 100 * ((k - better) / (equal + 1)).clamp(0, 1).mean().item() for k in RECALLS}
    return {**recalls, "median_rank": (better + 1 + equal / 2).quantile(0.5).item()}
