"""Mean average precision of ranked images, in the protocol of the revisited Oxford and Paris (Radenovic et al. 2018).

The area under a query's precision-recall curve is taken by trapezoids. Images that count neither as right nor as
wrong (junk) are taken out of the ranking. Equal similarities are in random order, and every score is its exact
expectation over that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import torch
from torch import Tensor

Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")
CUTS = (1, 5, 10)


@dataclass(frozen=True)
class Relevance:
    """Numbers of a query's images in the index that show the same place; all others do not."""

    easy: Sequence[int]
    hard: Sequence[int]
    junk: Sequence[int] = ()
    """Too unclear to count."""

    def under(self, difficulty: Difficulty) -> tuple[Sequence[int], Sequence[int]]:
        """Right images, and those that are taken out of the ranking."""
        match difficulty:
            case "easy":
                return self.easy, (*self.junk, *self.hard)
            case "medium":
                return (*self.easy, *self.hard), self.junk
            case "hard":
                return self.hard, (*self.junk, *self.easy)


def ranking_scores(similarity_QN: Tensor, relevance: Sequence[Relevance]) -> dict[str, float]:
    """`map_easy`, `map_medium`, `map_hard` and `precision_at_K_easy` and so on, in percent.

    A query without right image leaves the means of its difficulty; a difficulty without query has no scores.

    Args:
        similarity_QN: of each query to each image of the index. An image that is not returned has -inf: it is not
            in the ranking, and if it is right it costs recall.
        relevance: of each query.
    """
    scores: dict[str, float] = {}
    for difficulty in DIFFICULTIES:
        asked = [
            (similarity_N, *labels.under(difficulty))
            for similarity_N, labels in zip(similarity_QN, relevance, strict=True)
        ]
        ranked = [Ranking.of(similarity_N, right, junk) for similarity_N, right, junk in asked if len(right)]
        if not ranked:
            continue
        scores[f"map_{difficulty}"] = 100 * _mean([ranking.average_precision for ranking in ranked])
        for k in CUTS:
            scores[f"precision_at_{k}_{difficulty}"] = 100 * _mean([ranking.precision_at(k) for ranking in ranked])
    return scores


@dataclass(frozen=True)
class Ranking:
    """One query's ranking: groups of equal similarity from the best down, each with its size and right images."""

    groups: tuple[tuple[int, int], ...]
    """(images, right images among them) of each group; junk is gone."""
    num_right: int
    """Right images in the index, returned or not; at least one."""

    @staticmethod
    def of(similarity_N: Tensor, right: Sequence[int], junk: Sequence[int] = ()) -> Ranking:
        """The ranking of an index by similarity."""
        is_right = torch.zeros(len(similarity_N), dtype=torch.bool)
        is_right[list(right)] = True
        ranked = similarity_N.cpu() > -torch.inf
        ranked[list(junk)] = False
        _, place, sizes = similarity_N.cpu()[ranked].neg().unique(return_inverse=True, return_counts=True)
        hits = torch.bincount(place[is_right[ranked]], minlength=len(sizes))
        return Ranking(tuple(zip(sizes.tolist(), hits.tolist(), strict=True)), len(set(right)))

    @property
    def average_precision(self) -> float:
        """Area under precision over recall: the mean of (p0 + p1) / 2 over the right images.

        A right image at rank r (from 0) with j right ones before it has p0 = j / r, 1 at rank 0, and
        p1 = (j + 1) / (r + 1). Of a group, each place is as likely right as any other, and so is each place before it.
        """
        area, rank, found = 0.0, 0, 0
        for size, right in self.groups:
            for i in range(size if right else 0):
                before = found + (i * (right - 1) / (size - 1) if size > 1 else 0)
                at = rank + i
                area += right / size * ((before / at if at else 1) + (before + 1) / (at + 1)) / 2
            rank, found = rank + size, found + right
        return area / self.num_right

    def precision_at(self, k: int) -> float:
        """Share of right images among the first k, or among those up to the last right one where that comes before."""
        rank, found = 0, 0
        for size, right in self.groups:
            inside = min(k - rank, size)
            if right and found + right == self.returned:
                return self._precision_in_last(k, rank, found, size, right, inside)
            if rank + size >= k:
                return (found + right * inside / size) / k
            rank, found = rank + size, found + right
        return 0.0

    def _precision_in_last(self, k: int, rank: int, found: int, size: int, right: int, inside: int) -> float:
        """The last right image is at place i of its group with probability C(i, right - 1) / C(size, right)."""
        value, ended = 0.0, 0.0
        for i in range(right - 1, inside):
            chance = comb(i, right - 1) / comb(size, right)
            value += chance * (found + right) / (rank + i + 1)
            ended += chance
        return value + (found + right * inside / size - ended * (found + right)) / k

    @property
    def returned(self) -> int:
        """Right images in the ranking."""
        return sum(right for _, right in self.groups)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
