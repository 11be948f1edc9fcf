"""Automatic search of label words for a fixed template (LM-BFF, Gao et al. 2021, section 4.1).

Of each class the words that the masked LM finds most likely at the mask, over that class's training examples; then all
combinations, ranked by the accuracy on the training examples without any training. Names: N examples, V words, C
classes, K likely words of each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.integer[Any]]
MOST = 1_000_000
"""Combinations that are all tried; beyond, a beam goes through the classes."""
BEAM = 1000
CHUNK = 2**24
"""Scores that are compared at once."""


class Mapping(NamedTuple):
    """A word of each class, and the accuracy on the training examples that it has without training."""

    words: tuple[int, ...]
    accuracy: float


def likely_words(logits_NV: Floats, labels_N: Integers, allowed_V: NDArray[np.bool_], number: int) -> list[Integers]:
    """Of each class, the `number` allowed words of the highest mean logit over its examples, the likeliest first."""
    found: list[Integers] = []
    for label in range(int(labels_N.max()) + 1):
        order = np.argsort(-logits_NV[labels_N == label].mean(0), kind="stable")
        found.append(order[allowed_V[order]][:number])
    return found


def nearest_words(likely: Sequence[Integers], seeds: Sequence[int], vectors_VD: Floats, number: int) -> list[Integers]:
    """Of each class, the `number` likely words whose output embedding is nearest, by cosine, to a seed word."""
    unit_VD = vectors_VD / np.maximum(np.linalg.norm(vectors_VD, axis=1, keepdims=True), 1e-12)
    found = []
    for words, seed in zip(likely, seeds, strict=True):
        order = np.argsort(-(unit_VD[words] @ unit_VD[seed]), kind="stable")
        found.append(words[order][:number])
    return found


def search_mappings(
    logits_NV: Floats, labels_N: Integers, words: Sequence[Integers], number: int, most: int = MOST
) -> list[Mapping]:
    """The `number` best combinations of one word of each class; no word stands for two classes.

    Equal accuracies keep the order of the words given. With more than `most` combinations the classes are gone through
    by a beam of the BEAM best so far, by the accuracy on the examples of the classes so far.
    """
    if np.prod([float(len(of_class)) for of_class in words]) <= most:
        assignments = _product([np.arange(len(of_class))[:, None] for of_class in words])
    else:
        assignments = _beam(logits_NV, labels_N, words)
    assignments = _distinct(assignments, words)
    accuracies = _accuracies(logits_NV, labels_N, words, assignments)
    best = np.argsort(-accuracies, kind="stable")[:number]
    return [
        Mapping(tuple(int(of_class[i]) for of_class, i in zip(words, assignments[row], strict=True)), accuracies[row])
        for row in best.tolist()
    ]


def _beam(logits_NV: Floats, labels_N: Integers, words: Sequence[Integers]) -> Integers:
    beam: Integers = np.arange(len(words[0]))[:, None]
    for classes in range(2, len(words) + 1):
        beam = _distinct(_product([beam, np.arange(len(words[classes - 1]))[:, None]]), words)
        seen = labels_N < classes
        accuracies = _accuracies(logits_NV[seen], labels_N[seen], words[:classes], beam)
        beam = beam[np.argsort(-accuracies, kind="stable")[:BEAM]]
    return beam


def _product(columns: Sequence[Integers]) -> Integers:
    """Every combination of one row of each, the last running fastest."""
    grid = np.meshgrid(*(np.arange(len(rows)) for rows in columns), indexing="ij")
    return np.concatenate([rows[index.ravel()] for rows, index in zip(columns, grid, strict=True)], axis=1)


def _distinct(assignments_AC: Integers, words: Sequence[Integers]) -> Integers:
    chosen = np.stack([words[c][assignments_AC[:, c]] for c in range(assignments_AC.shape[1])], axis=1)
    ordered = np.sort(chosen, axis=1)
    distinct: NDArray[np.bool_] = (ordered[:, 1:] != ordered[:, :-1]).all(1)
    return assignments_AC[distinct]


def _accuracies(
    logits_NV: Floats, labels_N: Integers, words: Sequence[Integers], assignments_AC: Integers
) -> NDArray[np.float64]:
    of_class = [logits_NV[:, chosen] for chosen in words]
    found, size = [], max(CHUNK // (len(labels_N) * len(words)), 1)
    for start in range(0, len(assignments_AC), size):
        part = assignments_AC[start : start + size]
        scores_CNA = np.stack([scores[:, part[:, c]] for c, scores in enumerate(of_class)])
        found.append((scores_CNA.argmax(0) == labels_N[:, None]).mean(0))
    return np.concatenate(found) if found else np.empty(0)
