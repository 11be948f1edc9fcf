"""Non-dominated sorting of points with a score, of which more is better, and a cost, of which less is."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]
"""Score and cost."""


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` has at least the score of `b` at no more than its cost, and is better in one of them."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def fronts(points: Sequence[Point]) -> list[int]:
    """The number of each point's front, from 1: those that nothing dominates, then the same of what is left."""
    number = [0] * len(points)
    left, front = set(range(len(points))), 0
    while left:
        front += 1
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in best:
            number[i] = front
        left -= best
    return number


def first_front(points: Sequence[Point]) -> list[int]:
    """Positions of the points that nothing dominates."""
    return [i for i, number in enumerate(fronts(points)) if number == 1]


def spread(points: Sequence[Point], number: int) -> list[int]:
    """Positions of at most `number` points of the first front, evenly along it and with both ends, best score first.

    Points that equal one another are taken once. One point alone is that of the best score.
    """
    front = sorted({points[i]: i for i in reversed(first_front(points))}.values(), key=lambda i: -points[i][0])
    if len(front) <= number:
        return front
    if number == 1:
        return front[:1]
    return [front[round(k * (len(front) - 1) / (number - 1))] for k in range(number)]
