"""The three clocks that times are read from; every figure names its clock.

end to end   the host's clock, with the device idle before and after the call: what a user waits for, launches included
kernel       the device's clock around the call, its work queued beforehand so that no launch is waited for, and the
             L2 cache flushed before each call: what a kernel costs when its data are not there yet
graph        the device's clock around the replay of a CUDA graph of the call: what is left when launches cost nothing
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Protocol, TypeAlias

import torch

from naslab.efficiency.device import synchronise
from naslab.efficiency.graphs import aside, capture, reason
from naslab.errors import InputError

END_TO_END, KERNEL, GRAPH = "end to end", "kernel", "graph"
CLOCKS = (END_TO_END, KERNEL, GRAPH)

Sampler: TypeAlias = Callable[[], float]
"""Makes one call and returns its milliseconds."""

Prepare: TypeAlias = Callable[[], object]
"""What has to be done before a call and is not part of its time."""


def nothing() -> None:
    """There is nothing to do before a call."""


FLUSHED_BYTES = 2**28
"""Written to push everything else out of the L2 cache, where the device does not say how large that is."""
CAPTURE_WARM_UP = 3
MOST_HELD_MS = 50.0


class Clock(Protocol):
    """Where times are read from."""

    name: str

    def sampler(self, function: Callable[[], Any], before: Prepare = nothing) -> Sampler:
        """A sampler of `function`, which has run at least once before; `before` runs ahead of each call, untimed.

        Raises:
            InputError: the function cannot be timed by this clock.
        """


def clock_named(name: str, device: torch.device) -> Clock:
    """The clock called `name` for work on `device`. Whole models keep what the cache holds: no flush.

    Raises:
        InputError: no such clock, or it needs a GPU.
    """
    if name not in CLOCKS:
        raise InputError(f"clock: {name!r} is unknown; use {', '.join(CLOCKS)}")
    if name == END_TO_END:
        return EndToEnd(device)
    if device.type != "cuda":
        raise InputError(f"clock: {name!r} needs a CUDA device; on {device.type} only {END_TO_END!r} can be read")
    return KernelClock(device, flush_l2=False) if name == KERNEL else GraphClock(device)


def kernel_clock(device: torch.device) -> Clock:
    """The clock for single kernels: `KernelClock` with the cache flushed on CUDA, the host's clock elsewhere."""
    return KernelClock(device) if device.type == "cuda" else EndToEnd(device)


class EndToEnd:
    """The host's clock, the device idle before and after."""

    name = END_TO_END

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def sampler(self, function: Callable[[], Any], before: Prepare = nothing) -> Sampler:
        """Of any function."""

        def sample() -> float:
            before()
            synchronise(self._device)
            began = perf_counter_ns()
            function()
            synchronise(self._device)
            return (perf_counter_ns() - began) / 1e6

        return sample


class KernelClock:
    """CUDA events around a call whose launches are all queued before the device comes to them.

    The device is first kept busy for longer than the host needs to launch the call (measured, at most 50 ms), and by
    writing a buffer of several times its L2 cache. A call that waits for the device inside is timed with that wait.

    Args:
        flush_l2: for kernels; a whole model finds the cache as its own layers leave it.
        cuda: torch.cuda; replaced in tests.
    """

    name = KERNEL

    def __init__(self, device: torch.device, *, flush_l2: bool = True, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._flushed = self._buffer() if flush_l2 else None

    def sampler(self, function: Callable[[], Any], before: Prepare = nothing) -> Sampler:
        """Of a function that works on the device's current stream."""
        before()
        self._cuda.synchronize(self._device)
        began = perf_counter_ns()
        function()
        launching_ms = (perf_counter_ns() - began) / 1e6
        self._cuda.synchronize(self._device)
        cycles = round(self._cycles_per_ms() * min(2 * launching_ms, MOST_HELD_MS))

        def sample() -> float:
            before()
            start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
            self._cuda.synchronize(self._device)
            self._cuda._sleep(cycles)
            if self._flushed is not None:
                self._flushed.zero_()
            start.record()
            function()
            end.record()
            self._cuda.synchronize(self._device)
            return float(start.elapsed_time(end))

        return sample

    def _buffer(self) -> torch.Tensor:
        cache = getattr(self._cuda.get_device_properties(self._device), "L2_cache_size", 0)
        return torch.empty(max(4 * cache, FLUSHED_BYTES), dtype=torch.int8, device=self._device)

    def _cycles_per_ms(self) -> float:
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        cycles = 1_000_000
        start.record()
        self._cuda._sleep(cycles)
        end.record()
        self._cuda.synchronize(self._device)
        return cycles / max(float(start.elapsed_time(end)), 1e-3)


class GraphClock:
    """CUDA events around the replay of a captured graph.

    Args:
        cuda: torch.cuda; replaced in tests.
    """

    name = GRAPH

    def __init__(self, device: torch.device, *, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda

    def sampler(self, function: Callable[[], Any], before: Prepare = nothing) -> Sampler:
        """Of a function whose work is the same at every call: fixed shapes, nothing read back by the host.

        Raises:
            InputError: it cannot be captured; the reason is named.
        """
        replay = self._captured(function, before)

        def sample() -> float:
            before()
            start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
            self._cuda.synchronize(self._device)
            start.record()
            replay()
            end.record()
            self._cuda.synchronize(self._device)
            return float(start.elapsed_time(end))

        return sample

    def _captured(self, function: Callable[[], Any], before: Prepare) -> Callable[[], None]:
        stream = self._cuda.Stream(self._device)
        try:
            with aside(stream, self._device, cuda=self._cuda):
                for _ in range(CAPTURE_WARM_UP):
                    before()
                    function()
                before()
            return capture(function, self._device, cuda=self._cuda)
        except RuntimeError as error:
            raise InputError(f"clock: {GRAPH!r} cannot capture this model: {reason(error)}") from None
