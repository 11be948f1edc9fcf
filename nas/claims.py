"""The verdict of an experiment on a published effect: reproduced, not reproduced at this size, or undecided.

Each claim is asked two questions by one-sided t tests over seeds: is there an effect in the published direction, and is
the effect less than half of the published one (below 0, where no figure was published)? All questions of a page are
corrected together (Holm 1979, Scand. J. Statistics 6:65), so that the chance of one false verdict among all of them is
at most 2.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from naslab.nas.statistics import t_quantile

Verdict = Literal["reproduced", "not reproduced at this size", "undecided"]
ALPHA = 0.025
"""Of one side, as in a two-sided interval of 95 %."""
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Claim:
    """An effect per seed, positive in the published direction, and the published effect in the same unit."""

    effects: tuple[float, ...]
    published: float | None = None

    def __post_init__(self) -> None:
        if len(self.effects) < 2:
            raise ValueError(f"effects: {len(self.effects)}; a test over seeds needs at least two")
        if self.published is not None and self.published <= 0:
            raise ValueError(f"published: {self.published:g}; effects are positive in the published direction")

    @property
    def half(self) -> float:
        """Half of the published effect; 0 where no figure was published."""
        return (self.published or 0.0) / 2

    @property
    def p_values(self) -> tuple[float, float]:
        """Of no effect against one in the published direction, and of half of the published one against less."""
        return _p_above(self.effects, 0), _p_above([-effect for effect in self.effects], -self.half)


@dataclass(frozen=True)
class Judged:
    """A verdict; how many seeds in all would probably settle it where it is undecided, None if more than MOST_SEEDS."""

    verdict: Verdict
    seeds_wanted: int | None = None


def judge(claims: Sequence[Claim], alpha: float = ALPHA) -> list[Judged]:
    """The verdict of each claim, all corrected together."""
    adjusted = holm([p for claim in claims for p in claim.p_values])
    found = []
    for claim, shown, refuted in zip(claims, adjusted[::2], adjusted[1::2], strict=True):
        if shown <= alpha:
            found.append(Judged("reproduced"))
        elif refuted <= alpha:
            found.append(Judged("not reproduced at this size"))
        else:
            found.append(Judged("undecided", seeds_wanted(claim, alpha / len(adjusted))))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: the smallest times their number, the next times one less, and so on."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_wanted(claim: Claim, alpha: float) -> int | None:
    """The least number of seeds whose test settles the claim if mean and spread stay what they are."""
    mean, spread = fmean(claim.effects), stdev(claim.effects)
    distance = max(mean, claim.half - mean)
    for seeds in range(len(claim.effects), MOST_SEEDS + 1):
        if t_quantile(1 - alpha, seeds - 1) * spread <= distance * math.sqrt(seeds):
            return seeds
    return None


def _p_above(values: Sequence[float], bound: float) -> float:
    """One-sided p of a mean at most `bound` against one above it."""
    from scipy.special import stdtr

    spread, mean = stdev(values), fmean(values)
    if spread == 0:
        return 0.0 if mean > bound else 1.0
    return float(stdtr(len(values) - 1, (bound - mean) / (spread / math.sqrt(len(values)))))
