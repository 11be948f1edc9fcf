"""Throughput against batch size, and the knee: the smallest batch that is about as fast as any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, perf_counter_ns

import torch
from torch import nn

from naslab.efficiency.clocks import Prepare, nothing
from naslab.efficiency.device import synchronise
from naslab.efficiency.inputs import Inputs, call_model, device_of
from naslab.efficiency.latency import MIN_SAMPLES, WARM_UP_CALLS, Latency, summarise

WITHIN = 0.05
"""A batch is as fast as the best when its throughput is at most this share below it."""


@dataclass(frozen=True)
class BatchRow:
    """Inference at one batch size; `throughput` is samples a second at the median."""

    batch_size: int
    latency_ms: Latency
    throughput: float


@dataclass(frozen=True)
class BatchSweep:
    """Rows by batch size, the knee, and the size that did not fit in memory, if one did not."""

    rows: tuple[BatchRow, ...]
    knee: int
    out_of_memory: int | None


def sweep_batch_sizes(
    model: nn.Module,
    inputs_of: Callable[[int], Inputs],
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32),
    *,
    max_seconds: float = 20.0,
    before: Prepare = nothing,
) -> BatchSweep:
    """Time inference at each batch size, all sizes in turn, round by round, so that a drift meets them alike.

    Args:
        inputs_of: the batch of a given size, on the model's device.
        sizes: tried from small to large; the first that does not fit ends the sweep, and is recorded.
        max_seconds: for all sizes together, after at least 10 rounds.
        before: runs ahead of each call and is not timed.

    Raises:
        MemoryError: not even the smallest batch fits.
    """
    batches, failed = _fitting(model, inputs_of, sorted(sizes), before)
    samples: dict[int, list[float]] = {size: [] for size in batches}
    end = perf_counter() + max_seconds
    with torch.no_grad():
        while len(next(iter(samples.values()))) < MIN_SAMPLES or perf_counter() < end:
            for size, inputs in batches.items():
                before()
                samples[size].append(_milliseconds(model, inputs))
    rows = tuple(_row(size, taken) for size, taken in samples.items())
    best = max(row.throughput for row in rows)
    return BatchSweep(rows, next(r.batch_size for r in rows if r.throughput >= (1 - WITHIN) * best), failed)


def _fitting(
    model: nn.Module, inputs_of: Callable[[int], Inputs], sizes: Sequence[int], before: Prepare
) -> tuple[dict[int, Inputs], int | None]:
    batches: dict[int, Inputs] = {}
    for size in sizes:
        try:
            inputs = inputs_of(size)
            with torch.no_grad():
                for _ in range(WARM_UP_CALLS):
                    before()
                    call_model(model, inputs)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if not batches:
                raise MemoryError(f"a batch of {size} does not fit: {error}") from None
            return batches, size
        batches[size] = inputs
    return batches, None


def _milliseconds(model: nn.Module, inputs: Inputs) -> float:
    device = device_of(model, inputs)
    synchronise(device)
    began = perf_counter_ns()
    call_model(model, inputs)
    synchronise(device)
    return (perf_counter_ns() - began) / 1e6


def _row(size: int, samples: list[float]) -> BatchRow:
    latency = summarise(samples)
    return BatchRow(size, latency, 1e3 * size / latency.median)
