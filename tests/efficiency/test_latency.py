"""Timing: what the intervals mean, when sampling stops, and that drift meets both sides of a comparison."""

import time
from itertools import count as counter

import numpy as np
import pytest

from naslab.efficiency import compare_latency, measure_latency
from naslab.efficiency.latency import MIN_SAMPLES, median_interval, ratio_interval

READING_MS = 0.01
"""What reading the hand-moved clock adds to a time, a microsecond a reading."""


def test_the_exact_interval_agrees_with_drawing_resamples():
    rng = np.random.default_rng(1)
    samples = rng.gamma(4.0, size=41)
    medians = np.median(samples[rng.integers(0, 41, (40_000, 41))], axis=1)
    low, high = median_interval(samples)
    assert (low, high) == pytest.approx(tuple(np.percentile(medians, [2.5, 97.5], method="nearest")))


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(2)
    intervals = [median_interval(rng.exponential(size=31)) for _ in range(600)]
    covered = np.mean([low <= np.log(2) <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


@pytest.mark.parametrize("samples", [[3.0], [3.0, 3.0], [1.0, 2.0]])
def test_few_samples_give_their_range(samples):
    assert median_interval(samples) == (min(samples), max(samples))


def test_measure_finds_a_known_time(hand):
    latency = measure_latency(lambda: hand.work(0.004), min_seconds=0.05, max_seconds=0.4)
    assert latency.median == pytest.approx(4.0, abs=READING_MS)
    assert latency.p10 <= latency.low <= latency.median <= latency.high <= latency.p90
    assert len(latency.samples_ms) >= MIN_SAMPLES


def test_on_the_machines_own_clock_a_wait_is_never_shorter_than_it_is():
    latency = measure_latency(lambda: time.sleep(0.004), min_seconds=0.0, max_seconds=0.0)
    assert min(latency.samples_ms) >= 4.0


def test_a_steady_function_stops_early_and_an_unsteady_one_says_noisy(hand):
    times = counter()
    unsteady = measure_latency(lambda: hand.work(0.001 if next(times) % 2 else 0.03), min_seconds=0.05, max_seconds=0.3)
    assert unsteady.noisy
    began = hand.now()
    steady = measure_latency(lambda: hand.work(0.005), min_seconds=0.05, max_seconds=30)
    assert not steady.noisy
    assert hand.now() - began < 1


def test_comparison_takes_turns(hand):
    calls = []
    compared = compare_latency(
        lambda: (calls.append("a"), hand.work(0.004)),
        lambda: (calls.append("b"), hand.work(0.002)),
        min_seconds=0.05,
        max_seconds=0.3,
    )
    timed = "".join(calls[-2 * len(compared.a.samples_ms) :])
    assert timed == "ab" * len(compared.a.samples_ms)
    assert compared.low <= compared.ratio <= compared.high
    assert compared.ratio == pytest.approx(2.0, abs=READING_MS)


def test_shared_drift_leaves_the_ratio_alone():
    drift = np.linspace(1, 3, 50)
    assert ratio_interval(2 * drift, drift)[0] == pytest.approx(2.0)
    assert ratio_interval(2 * drift, drift)[1] == pytest.approx(2.0)
