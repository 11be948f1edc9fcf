"""Means and differences with intervals by Student's t, the only statistics on which the project's claims rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval; the bounds are None where one observation cannot give any."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Mean and bounds with two decimals."""
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of independent observations and its t interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("values: empty; a mean needs at least one")
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    half = _quantile(level, len(values) - 1) * math.sqrt(variance(values) / len(values))
    return Interval(mean, mean - half, mean + half)


def difference_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of `a` minus mean of `b` with Welch's interval, which does not assume equal variances.

    Raises:
        ValueError: no values on one side.
    """
    if not a or not b:
        raise ValueError("a, b: a difference needs at least one value on each side")
    mean = fmean(a) - fmean(b)
    if len(a) < 2 or len(b) < 2:
        return Interval(mean, None, None)
    parts = [variance(side) / len(side) for side in (a, b)]
    total = sum(parts)
    if total == 0:
        return Interval(mean, mean, mean)
    degrees = total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True))
    half = _quantile(level, degrees) * math.sqrt(total)
    return Interval(mean, mean - half, mean + half)


def _quantile(level: float, degrees: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, degrees))
