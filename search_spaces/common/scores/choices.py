"""Multiple choice: whether the right option is the best one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def best_option_accuracy(fits: Sequence[Tensor], right: Sequence[int]) -> float:
    """Share of questions whose right option fits best; options that fit alike share the point.

    Args:
        fits: how well each option of a question fits, (options,).
        right: place of the right option of each question.
    """
    points = 0.0
    for fit, place in zip(fits, right, strict=True):
        best = fit == fit.max()
        points += float(best[place]) / int(best.sum())
    return points / len(fits)
