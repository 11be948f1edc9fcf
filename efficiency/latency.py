"""Latency: the time of a call by one of the clocks of `naslab.efficiency.clocks`, sampled until its median is known.

The interval of the median is the percentile bootstrap's in its exact form: the median of a resample is at most the
k-th smallest of n samples with probability P(Bin(n, k/n) >= (n + 1) / 2), so nothing needs to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from naslab.efficiency.clocks import Clock, EndToEnd, Prepare, Sampler, nothing
from naslab.efficiency.device import synchronise

CONFIDENCE = 0.95
MIN_SAMPLES = 10
MAX_SAMPLES = 2000
WARM_UP_CALLS = 3
WARM_UP_SECONDS = 0.1
RESAMPLES = 2000


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call. `q1` and `q3` are the quartiles, `low` and `high` bound
    the median (95 %); `noisy` says that time ran out before they were as close together as asked.
    """

    samples_ms: tuple[float, ...]
    median: float
    p10: float
    q1: float
    q3: float
    p90: float
    low: float
    high: float
    noisy: bool


@dataclass(frozen=True)
class Comparison:
    """Two calls timed in turn. `ratio` is the median of a over that of b; `low` and `high` bound it (95 %)."""

    a: Latency
    b: Latency
    ratio: float
    low: float
    high: float
    noisy: bool


def measure_latency(
    function: Callable[[], Any],
    device: torch.device | None = None,
    *,
    relative_width: float = 0.05,
    min_seconds: float = 0.5,
    max_seconds: float = 10.0,
    clock: Clock | None = None,
    before: Prepare = nothing,
) -> Latency:
    """Time `function` after a warm-up, waiting for the device before and after each call.

    Args:
        device: where it runs; the CPU when left out.
        clock: what the times are read from; end to end when left out.
        before: runs ahead of each call and is not timed, such as putting a model's state back.
        relative_width: enough is known when the interval of the median is narrower than this share of the median.
        min_seconds: sample at least as long.
        max_seconds: sample no longer (but at least 10 times), and say `noisy` if the interval is still wider.
    """
    device = device or torch.device("cpu")
    _warm_up(function, device, before)
    samples: list[float] = []

    def narrow() -> bool:
        low, high = median_interval(samples)
        return high - low <= relative_width * float(np.median(samples))

    timed = (clock or EndToEnd(device)).sampler(function, before)
    _sample([(timed, samples)], narrow, min_seconds, max_seconds)
    return summarise(samples, relative_width)


def compare_latency(
    function_a: Callable[[], Any],
    function_b: Callable[[], Any],
    device: torch.device | None = None,
    *,
    relative_width: float = 0.05,
    min_seconds: float = 1.0,
    max_seconds: float = 20.0,
    clock: Clock | None = None,
) -> Comparison:
    """Time two functions interleaved, A-B-A-B, so that a drift of the machine meets both alike.

    The interval of the ratio is a bootstrap over the pairs. Arguments as for `measure_latency`, of the ratio.
    """
    device = device or torch.device("cpu")
    _warm_up(function_a, device)
    _warm_up(function_b, device)
    a: list[float] = []
    b: list[float] = []

    def narrow() -> bool:
        low, high = ratio_interval(a, b)
        return high - low <= relative_width * float(np.median(a) / np.median(b))

    read = clock or EndToEnd(device)
    _sample([(read.sampler(function_a), a), (read.sampler(function_b), b)], narrow, min_seconds, max_seconds)
    low, high = ratio_interval(a, b)
    ratio = float(np.median(a) / np.median(b))
    noisy = high - low > relative_width * ratio
    return Comparison(summarise(a, relative_width), summarise(b, relative_width), ratio, low, high, noisy)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median of `samples`."""
    from scipy.special import bdtrc  # workers that measure nothing need not wait for it

    ordered, n = np.sort(samples), len(samples)
    at_most = bdtrc((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    tail = (1 - CONFIDENCE) / 2
    low, high = (int(np.searchsorted(at_most, probability)) for probability in (tail, 1 - tail))
    return float(ordered[low]), float(ordered[min(high, n - 1)])


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of median(a) / median(b); the same input gives the same interval.

    As many of both are pairs and are drawn together; else each is drawn by itself.
    """
    rng = np.random.default_rng(0)
    first, second = np.asarray(a), np.asarray(b)
    ratios: NDArray[np.float64] = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = rng.integers(0, len(first), len(first))
        other = drawn if len(first) == len(second) else rng.integers(0, len(second), len(second))
        ratios[i] = np.median(first[drawn]) / np.median(second[other])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
    return float(low), float(high)


def _warm_up(function: Callable[[], Any], device: torch.device, before: Prepare = nothing) -> None:
    end = perf_counter() + WARM_UP_SECONDS
    calls = 0
    while calls < WARM_UP_CALLS or perf_counter() < end:
        before()
        function()
        synchronise(device)
        calls += 1


def _sample(
    turns: Sequence[tuple[Sampler, list[float]]],
    enough: Callable[[], bool],
    min_seconds: float,
    max_seconds: float,
) -> None:
    start, samples, check_at = perf_counter(), turns[0][1], MIN_SAMPLES
    while True:
        for sample, into in turns:
            into.append(sample())
        seconds = perf_counter() - start
        if len(samples) < MIN_SAMPLES:
            continue
        if seconds >= max_seconds or len(samples) >= MAX_SAMPLES:
            return
        if seconds >= min_seconds and len(samples) >= check_at:
            if enough():
                return
            # Looking again only after a quarter more keeps both the cost of looking and its bias small.
            check_at = len(samples) * 5 // 4


def summarise(samples: Sequence[float], relative_width: float = 0.05) -> Latency:
    """The distribution of milliseconds; `noisy` when the median is known to less than `relative_width`."""
    p10, q1, median, q3, p90 = map(float, np.percentile(samples, [10, 25, 50, 75, 90]))
    low, high = median_interval(samples)
    noisy = bool(high - low > relative_width * median)
    return Latency(tuple(samples), median, p10, q1, q3, p90, low, high, noisy)
