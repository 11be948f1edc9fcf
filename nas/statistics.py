"""Means, differences and ratios with intervals by Student's t: the statistics on which the project's claims rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev, variance

LEVEL = 0.95
"""Of every interval, where nothing else is said."""
Critical = Callable[[int], float]
"""By how many standard errors an interval of so many observations reaches to each side; infinite where so few have no
interval yet, as before the first look of a race."""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval; the bounds are None where the observations are too few for any."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Mean and bounds with two decimals."""
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether there are bounds, and both on one side of 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def scaled(self, factor: float) -> Interval:
        """Every value times `factor`; a negative one swaps the bounds."""
        if self.low is None or self.high is None:
            return Interval(factor * self.mean, None, None)
        low, high = sorted((factor * self.low, factor * self.high))
        return Interval(factor * self.mean, low, high)


def t_quantile(probability: float, degrees: float) -> float:
    """Student's t at so many degrees of freedom."""
    from scipy.special import stdtrit  # a fifth of a second, which no driver or worker has to wait for

    return float(stdtrit(degrees, probability))


@cache
def student(observations: int, level: float = LEVEL) -> float:
    """The t quantile of a two-sided interval of one look at so many observations."""
    return t_quantile((1 + level) / 2, observations - 1)


def mean_interval(values: Sequence[float], critical: Critical = student) -> Interval:
    """Mean of independent observations and its t interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("values: empty; a mean needs at least one")
    mean = fmean(values)
    reach = critical(len(values)) if len(values) > 1 else math.inf
    if math.isinf(reach):
        return Interval(mean, None, None)
    half = reach * math.sqrt(variance(values) / len(values))
    return Interval(mean, mean - half, mean + half)


def difference_interval(a: Sequence[float], b: Sequence[float]) -> Interval:
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
    half = t_quantile((1 + LEVEL) / 2, degrees) * math.sqrt(total)
    return Interval(mean, mean - half, mean + half)


def paired_interval(a: Mapping[int, float], b: Mapping[int, float], critical: Critical = student) -> Interval:
    """`a` minus `b`, both by seed: paired over the seeds that they share, Welch's interval where two are not shared.

    Args:
        critical: where it reaches further than Student's, as in a race, Welch's interval is wider in proportion.

    Raises:
        ValueError: no values on one side.
    """
    shared = [seed for seed in a if seed in b]
    if len(shared) >= 2:
        return mean_interval([a[seed] - b[seed] for seed in shared], critical)
    return _widened(difference_interval(list(a.values()), list(b.values())), critical, min(len(a), len(b)))


def _widened(found: Interval, critical: Critical, observations: int) -> Interval:
    """An interval by Student's t as wide as `critical` asks for."""
    if found.low is None or found.high is None:
        return found
    reach = critical(observations)
    if math.isinf(reach):
        return Interval(found.mean, None, None)
    if reach <= student(observations):
        return found
    half = (found.high - found.mean) * reach / student(observations)
    return Interval(found.mean, found.mean - half, found.mean + half)


def interval_over(
    values: Mapping[int, float], floor: Mapping[int, float] | Sequence[float], critical: Critical = student
) -> Interval:
    """`values`, by seed, minus a floor: in pairs where it is by seed, by Welch where it is several values of no seeds.

    Args:
        floor: a sequence of one is a number that is known.
        critical: as in `paired_interval`.

    Raises:
        ValueError: no values on one side.
    """
    if isinstance(floor, Mapping):
        return paired_interval(values, floor, critical)
    if len(floor) == 1:
        return mean_interval([value - floor[0] for value in values.values()], critical)
    return over_runs(list(values.values()), floor, critical)


def over_runs(values: Sequence[float], runs: Sequence[float], critical: Critical = student) -> Interval:
    """`values` minus `runs` of something else, which share no seeds with them: by Welch.

    Args:
        critical: as in `paired_interval`, of so many `values`: the `runs` are given once, and take no part in a race.

    Raises:
        ValueError: no values on one side.
    """
    return _widened(difference_interval(values, runs), critical, len(values))


def ratio_interval(a: Mapping[int, float], b: Mapping[int, float], critical: Critical = student) -> Interval:
    """`a` over `b`, positive and by seed, as ratio of geometric means: the interval of the logarithms, raised again.

    Raises:
        ValueError: no values on one side, or one that is not positive.
    """
    logs = [{seed: math.log(value) for seed, value in side.items()} for side in (a, b)]
    found = paired_interval(logs[0], logs[1], critical)
    if found.low is None or found.high is None:
        return Interval(math.exp(found.mean), None, None)
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def spread_of_difference(a: Mapping[int, float], b: Mapping[int, float]) -> float | None:
    """Standard deviation over seeds of `a` minus `b`; None where it cannot be told."""
    shared = [seed for seed in a if seed in b]
    if len(shared) >= 2:
        return stdev(a[seed] - b[seed] for seed in shared)
    if len(a) < 2 or len(b) < 2:
        return None
    return math.sqrt(variance(a.values()) + variance(b.values()))
