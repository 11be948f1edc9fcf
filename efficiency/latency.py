"""Wall time of a call, with enough repeats to know how well it is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

WARMUP = 3
MIN_SAMPLES, MAX_SAMPLES = 10, 2000


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call. `low` and `high` bound the median (bootstrap, 95 %); `noisy` says that time ran out
    before that interval was as narrow as wanted."""

    median: float
    p10: float
    p90: float
    low: float
    high: float
    samples_ms: tuple[float, ...]
    noisy: bool


def measure_latency(
    call: Callable[[], Any], device: torch.device, relative_width: float = 0.05, max_seconds: float = 2.0
) -> Latency:
    """Time `call`, warmed up and synchronised, until the median's interval is `relative_width` of it wide.

    Args:
        max_seconds: upper bound on the measuring, warm-up aside.
    """
    for _ in range(WARMUP):
        call()
    samples: list[float] = []
    started = time.perf_counter()
    low, high = 0.0, float("inf")
    while len(samples) < MAX_SAMPLES:
        samples.append(_once(call, device))
        if len(samples) >= MIN_SAMPLES and len(samples) % 5 == 0:
            low, high = median_interval(samples)
            if high - low <= relative_width * float(np.median(samples)):
                break
        if time.perf_counter() - started > max_seconds and len(samples) >= 3:
            break
    low, high = median_interval(samples)
    median, p10, p90 = (float(np.percentile(samples, q)) for q in (50, 10, 90))
    return Latency(median, p10, p90, low, high, tuple(samples), high - low > relative_width * median)


@dataclass(frozen=True)
class Comparison:
    """Time of A over time of B, timed in turn, with a bootstrap interval over the pairs."""

    ratio: float
    low: float
    high: float
    a_ms: tuple[float, ...]
    b_ms: tuple[float, ...]


def compare_latency(
    a: Callable[[], Any], b: Callable[[], Any], device: torch.device, max_seconds: float = 5.0
) -> Comparison:
    """Interleave A B A B ..., so that drift of the machine falls on both."""
    for call in (a, b) * WARMUP:
        call()
    pairs: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(pairs) < MIN_SAMPLES or (len(pairs) < 200 and time.perf_counter() - started < max_seconds):
        pairs.append((_once(a, device), _once(b, device)))
    table, rng = np.array(pairs), np.random.default_rng(0)
    drawn = np.median(table[rng.integers(len(table), size=(1000, len(table)))], axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    medians = np.median(table, axis=0)
    return Comparison(
        float(medians[0] / medians[1]),
        float(low),
        float(high),
        tuple(table[:, 0].tolist()),
        tuple(table[:, 1].tolist()),
    )


def median_interval(samples: Sequence[float], draws: int = 400) -> tuple[float, float]:
    """Bootstrap 95 % interval of the median, with a fixed seed."""
    values, rng = np.asarray(samples), np.random.default_rng(0)
    medians = np.median(values[rng.integers(len(values), size=(draws, len(values)))], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _once(call: Callable[[], Any], device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter_ns()
    call()
    _synchronise(device)
    return (time.perf_counter_ns() - start) / 1e6


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
