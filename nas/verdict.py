"""Non-inferiority: may a configuration take the place of the reference, and how many seeds would it take to know?

A row meets the floor where the lower bound of its difference is above minus the margin, is below it where the upper
bound is under minus the margin, and is undecided in between (Piaggio et al. 2012, CONSORT extension).
"""

from __future__ import annotations

import math
from typing import Literal

from naslab.nas.statistics import Critical, Interval, student

Verdict = Literal["meets", "undecided", "below"]
POWER = 0.9
MOST_SEEDS = 1000


def judge(difference: Interval, margin: float) -> Verdict:
    """The verdict on `difference`, of which more is better, at `margin` 0 or more."""
    if difference.low is None or difference.high is None:
        return "undecided"
    if difference.low > -margin:
        return "meets"
    return "below" if difference.high < -margin else "undecided"


def tellable(deviation: float, seeds: int, critical: Critical = student) -> float:
    """The difference that so many pairs of seeds would tell nine times in ten.

    Args:
        deviation: standard deviation over seeds of the paired difference.
        seeds: of each side, two or more.
    """
    return (critical(seeds) + _power_quantile(seeds)) * deviation / math.sqrt(seeds)


def seeds_to_tell(deviation: float, difference: float) -> int | None:
    """How many pairs of seeds would tell `difference` nine times in ten; None above MOST_SEEDS.

    Raises:
        ValueError: a difference that is not positive.
    """
    if difference <= 0:
        raise ValueError("difference: no number of seeds tells a difference of 0")
    low, high = 2, MOST_SEEDS
    if tellable(deviation, high) > difference:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if tellable(deviation, middle) <= difference else (middle + 1, high)
    return low


def _power_quantile(seeds: int) -> float:
    return student(seeds, level=2 * POWER - 1)
