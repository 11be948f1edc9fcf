"""Racing seeds: the next seed goes where it may still change the decision, and repeated looks are corrected for.

The looks are those after `first`, `first` + 1, ..., `last` seeds. An error of 5 % to each side is spent over them as
Lan and DeMets (1983) do: a share (n / last) ** RATE of it may be used up by the look at n seeds (Kim and DeMets 1987).
So no configuration that is worse than the floor by the margin is found to meet it in more than 5 % of studies, whenever
and for whatever reason its row stops (repeated confidence intervals, Jennison and Turnbull 1989). Rows rarely stop at
the worst moment: at the end the intervals cover in more than 95 %, as benchmarks/ranking_simulation.py measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from naslab.nas.statistics import Critical, Interval, interval_over, paired_interval, student
from naslab.nas.verdict import judge

Floor: TypeAlias = Mapping[int, float] | Sequence[float]
"""See `interval_over`."""
ERROR, RATE = 0.10, 1.0
PATHS = 200_000
"""Simulated studies from which the bounds are read: their own error is about 1 % of the bound."""


@dataclass(frozen=True)
class Looks:
    """A race of seeds: each row is looked at after `first` seeds and after every one more, up to `last`."""

    first: int
    last: int

    def critical(self, seeds: int) -> float:
        """Standard errors to each side of an interval over so many seeds; never fewer than those of one look."""
        if seeds < self.first:
            return math.inf
        bounds = boundary(self.first, self.last)
        return max(bounds[min(seeds, self.last) - self.first], student(seeds))


@lru_cache(maxsize=64)
def boundary(first: int, last: int) -> tuple[float, ...]:
    """The bound on |t| at each look, read from simulated t statistics, whose law no mean or deviation changes."""
    paths = np.abs(_t_paths(first, last))
    alive = np.ones(len(paths), dtype=bool)
    bounds: list[float] = []
    for look, seeds in enumerate(range(first, last + 1)):
        allowed = round(ERROR * (seeds / last) ** RATE * len(paths)) - int((~alive).sum())
        reached = np.sort(paths[alive, look])
        bounds.append(float(reached[-allowed - 1]))
        alive &= paths[:, look] <= bounds[-1]
    return tuple(bounds)


def _t_paths(first: int, last: int) -> np.ndarray:
    """t statistics after `first` to `last` standard normal observations, [paths, looks]."""
    draws = np.random.default_rng(0).standard_normal((PATHS, last), dtype=np.float32)
    counts = np.arange(first, last + 1)
    # In double precision: of two draws that are nearly equal, single precision finds a negative variance.
    sums = draws.cumsum(axis=1, dtype=np.float64)[:, first - 1 :]
    squares = (draws.astype(np.float64) ** 2).cumsum(axis=1)[:, first - 1 :]
    variances = (squares - sums**2 / counts) / (counts - 1)
    return np.asarray(sums / np.sqrt(counts * variances))


@dataclass(frozen=True)
class Contender:
    """A configuration in the race: quality (more is better) and what decides the order (more is better), by seed."""

    name: str
    quality: Mapping[int, float]
    score: Mapping[int, float]


def next_seeds(rows: Sequence[Contender], floor: Floor | None, margin: float, looks: Looks, tie: float) -> list[str]:
    """Names of the rows that the next seed may still help, in the order given; empty where all is settled.

    Args:
        rows: with `looks.first` seeds or more each; the reference may be one of them.
        floor: quality of the reference by seed, or of a baseline; None without one, where every row meets it.
        margin: by how much a row may be worse than the floor.
        tie: see `open_rows`.
    """
    still = open_rows(rows, floor, margin, looks.critical, tie)
    return [row.name for row in rows if row.name in still and len(row.quality) < looks.last]


def open_rows(
    rows: Sequence[Contender], floor: Floor | None, margin: float, critical: Critical, tie: float
) -> set[str]:
    """Names of the rows of which more seeds could change the decision.

    A row is settled that is below the floor, or that cannot win: another that meets the floor has shown a higher score.
    It is open while its verdict is undecided, or while its order with the leader is, unless the two are shown to be
    within `tie` of each other, as a share of the leader's score. The leader is open while another that meets the floor
    is.
    """
    verdicts = {row.name: _verdict(row, floor, margin, critical) for row in rows}
    leader = max((row for row in rows if verdicts[row.name] == "meets"), key=lambda r: _mean(r.score), default=None)
    if leader is None:
        return {name for name, verdict in verdicts.items() if verdict != "below"}
    slack = tie * abs(_mean(leader.score))
    still = {
        row.name
        for row in rows
        if row is not leader and _is_open(verdicts[row.name], paired_interval(row.score, leader.score, critical), slack)
    }
    return still | ({leader.name} if any(verdicts[name] == "meets" for name in still) else set())


def _verdict(row: Contender, floor: Floor | None, margin: float, critical: Critical) -> str:
    if floor is None or row.quality is floor or (isinstance(floor, Mapping) and dict(row.quality) == dict(floor)):
        return "meets"
    return judge(interval_over(row.quality, floor, critical), margin)


def _is_open(verdict: str, ahead: Interval, slack: float) -> bool:
    """Whether a row that is so far ahead of the leader (negative: behind) may still win."""
    if verdict == "below":
        return False
    if ahead.low is None or ahead.high is None:
        return True
    if ahead.high < 0:
        return False
    if verdict == "undecided":
        return True
    return ahead.low <= 0 and not -slack < ahead.low <= ahead.high < slack


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)
