"""Weighted nearest neighbours of frozen features (Wu et al. 2018, section 3.4)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.common.scores.accuracy import accuracy

QUERIES_AT_ONCE = 1024
SMALLEST = 1e-30
"""Temperature below which all but the nearest have no vote in single precision."""


def knn_accuracy(
    bank_x: Tensor, bank_y: Tensor, x: Tensor, y: Tensor, num_classes: int, k: int = 200, temperature: float = 0.1
) -> float:
    """Share of queries that a weighted kNN classifies right.

    Each of the k nearest neighbours by cosine similarity s votes for its class with weight exp(s / temperature).
    Neighbours as near as the k-th share the places that are left, and classes of equal votes share the point: a model
    that finds everything alike scores what guessing does.

    Args:
        bank_x, bank_y: labelled features (N, F) and classes (N,); k is cut to N. Labels below 0 are left out.
        x, y: queries (M, F) and their classes (M,).
    """
    labelled = bank_y >= 0
    bank, classes = F.normalize(bank_x[labelled].float(), dim=1), bank_y[labelled]
    k, points = min(k, len(bank)), 0.0
    for queries, truth in zip(
        F.normalize(x.float(), dim=1).split(QUERIES_AT_ONCE), y.split(QUERIES_AT_ONCE), strict=True
    ):
        similarity_QN = queries @ bank.T
        similarity, nearest = similarity_QN.topk(k, dim=1)
        votes = _votes(similarity, classes[nearest], similarity[:, :1], num_classes, temperature)
        last = similarity[:, -1:]
        cut = ((similarity_QN == last).sum(1) > (similarity == last).sum(1)).nonzero().flatten()
        if len(cut):
            shares = _shares(similarity_QN[cut], last[cut], k)
            everyone = classes.expand(len(cut), -1)
            votes[cut] = _votes(similarity_QN[cut], everyone, similarity[cut, :1], num_classes, temperature, shares)
        points += accuracy(votes, truth) * len(truth)
    return points / len(y)


def _votes(
    similarity_QK: Tensor,
    classes_QK: Tensor,
    best_Q1: Tensor,
    num_classes: int,
    temperature: float,
    shares_QK: Tensor | float = 1.0,
) -> Tensor:
    """Votes (Q, classes), relative to the nearest, whose weight is 1: exp(1 / temperature) may overflow."""
    weights = ((similarity_QK - best_Q1) / max(temperature, SMALLEST)).exp() * shares_QK
    return weights.new_zeros(len(weights), num_classes).scatter_add_(1, classes_QK, weights)


def _shares(similarity_QN: Tensor, last_Q1: Tensor, k: int) -> Tensor:
    """How much of each of N is among the k nearest, the last of which is as near as others: 0 to 1."""
    nearer, level = similarity_QN > last_Q1, similarity_QN == last_Q1
    left = k - nearer.sum(1, keepdim=True)
    return nearer.float() + level.float() * (left / level.sum(1, keepdim=True))
