"""Weighted nearest neighbours of frozen features (Wu et al. 2018, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

QUERIES_AT_ONCE = 1024


def knn_accuracy(
    bank_x: Tensor, bank_y: Tensor, x: Tensor, y: Tensor, num_classes: int, k: int = 200, temperature: float = 0.1
) -> float:
    """Share of queries that a weighted kNN classifies right.

    Each of the k nearest neighbours by cosine similarity s votes for its class with weight exp(s / temperature).

    Args:
        bank_x, bank_y: labelled features (N, F) and classes (N,); k is cut to N. Labels below 0 are left out.
        x, y: queries (M, F) and their classes (M,).
    """
    labelled = bank_y >= 0
    bank, classes = F.normalize(bank_x[labelled].float(), dim=1), bank_y[labelled]
    right = 0
    for queries, truth in zip(
        F.normalize(x.float(), dim=1).split(QUERIES_AT_ONCE), y.split(QUERIES_AT_ONCE), strict=True
    ):
        similarity, nearest = (queries @ bank.T).topk(min(k, len(bank)), dim=1)
        # Relative to the nearest, whose weight is 1: at a low temperature exp(1 / temperature) overflows.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(queries), num_classes, device=x.device).scatter_add_(1, classes[nearest], weights)
        right += int((votes.argmax(1) == truth).sum())
    return right / len(y)
