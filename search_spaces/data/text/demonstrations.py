"""Demonstrations: which training examples may follow a query, and one of each class drawn from them.

Section 5 of the paper, as the authors' `FewShotDataset` does it: a query's own example is left out in training, and
with the filter only the nearest of each class by cosine of sentence embeddings may be drawn.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.integer[Any]]


def kept_of_class(candidates: int, classes: int, rate: float) -> int:
    """How many of each class the filter keeps of `candidates` in all: floor(N / classes x rate), one at least."""
    return max(1, int(candidates // classes * rate))


def candidates(labels_N: Indices, query: int | None, similarity_N: NDArray[np.float64] | None, rate: float) -> Indices:
    """The training examples that may demonstrate for a query, with the filter the nearest first.

    Args:
        labels_N: classes of the training examples.
        query: the query's own number among them; None: it is none of them.
        similarity_N: cosine to the query; None: all may be drawn.
        rate: share of each class that the filter keeps.
    """
    allowed = np.array([index for index in range(len(labels_N)) if index != query], dtype=np.int64)
    if similarity_N is None:
        return allowed
    nearest = allowed[np.argsort(-similarity_N[allowed], kind="stable")]
    kept = kept_of_class(len(allowed), len(np.unique(labels_N)), rate)
    left = dict.fromkeys(labels_N.tolist(), kept)
    chosen = []
    for index in nearest.tolist():
        label = int(labels_N[index])
        if left[label] > 0:
            left[label] -= 1
            chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def draw(allowed: Indices, labels_N: Indices, rng: np.random.RandomState) -> list[int]:
    """One training example of each class in the order of the labels: the first of each in a random order."""
    order = allowed[rng.permutation(len(allowed))]
    first: dict[int, int] = {}
    for index in order.tolist():
        first.setdefault(int(labels_N[index]), index)
    return [first[label] for label in sorted(first)]
