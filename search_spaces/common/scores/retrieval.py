"""Retrieval between texts and videos: recall among the first K and the median rank, both ways.

Equal similarities are in random order, and every score is its exact expectation over that order. So a model that
finds everything alike scores what chance does. A similarity that is not a number is as low as can be.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RECALLS = (1, 5, 10)
LIFT = 2.0
"""The lowest similarity of what is ranked again; cosines end at 1."""


def retrieval_scores(similarity_QV: Tensor, clips_Q: Tensor) -> dict[str, float]:
    """Recalls in percent and median ranks (1 is best); `video_to_text_` marks the way back.

    A text has one right video. A video's right texts are all of its captions, of which the best ranked counts;
    videos without caption are not asked for.

    Args:
        similarity_QV: texts in rows, videos in columns.
        clips_Q: the right video of each text.
    """
    similarity_QV = similarity_QV.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    own_QV = torch.arange(similarity_QV.shape[1], device=clips_Q.device) == clips_Q[:, None]
    described = own_QV.any(0)
    there = best_rank_scores(similarity_QV, own_QV)
    back = best_rank_scores(similarity_QV.T[described], own_QV.T[described])
    scores = {**there, **{f"video_to_text_{name}": value for name, value in back.items()}}
    recalls = [value for name, value in scores.items() if "recall" in name]
    return {**scores, "mean_recall": sum(recalls) / len(recalls)}


def chance_scores(clips_Q: Tensor, videos: int) -> dict[str, float]:
    """What a model scores that finds every pair alike."""
    return retrieval_scores(torch.zeros(len(clips_Q), videos), clips_Q)


def best_rank_scores(similarity_QN: Tensor, right_QN: Tensor) -> dict[str, float]:
    """`recall_at_K` in percent and `median_rank` of the best ranked right candidate of each query.

    Args:
        similarity_QN: of each query to each candidate.
        right_QN: which candidates are right, at least one a query.
    """
    best_Q1 = similarity_QN.masked_fill(~right_QN, -torch.inf).amax(1, keepdim=True)
    better = (similarity_QN > best_Q1).sum(1)
    tied = similarity_QN == best_Q1
    right, wrong = (tied & right_QN).sum(1).double(), (tied & ~right_QN).sum(1).double()
    recalls = {f"recall_at_{k}": 100 * _found(k - better, right, wrong).mean().item() for k in RECALLS}
    expected_rank = better + 1 + wrong / (right + 1)
    return {**recalls, "median_rank": expected_rank.quantile(0.5).item()}


def _found(places: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Probability that one of `right` candidates is on the first `places` of `right` + `wrong` in random order.

    That no right one is there has the probability of the product over i < places of (wrong - i) / (right + wrong - i).
    """
    missed = torch.ones_like(right)
    for i in range(max(RECALLS)):
        miss = (wrong - i).clamp(min=0) / (right + wrong - i).clamp(min=1)
        missed = torch.where(i < places, missed * miss, missed)
    return 1 - missed


def reranked(similarity_QV: Tensor, best: int, log_odds: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Similarities in which the best items of each query are ordered by `log_odds`, and stay before all others.

    All are lifted alike over the others, in double precision, in which lifting changes no order.

    Args:
        similarity_QV: cosines, at most 1.
        log_odds: numbers of queries (N,) and of items (N,) to how well they fit, (N,). Pairs come item by item, so that
            each item is encoded once for all the queries that want it.
    """
    items_QR = similarity_QV.topk(min(best, similarity_QV.shape[1]), 1).indices
    items_N = items_QR.flatten()
    queries_N = torch.arange(len(similarity_QV)).repeat_interleave(items_QR.shape[1])
    order = items_N.argsort(stable=True)
    fits = log_odds(queries_N[order], items_N[order]).double()
    found = torch.empty_like(fits).scatter(0, order, fits - fits.min() + LIFT)
    return similarity_QV.double().scatter(1, items_QR, found.view_as(items_QR))
