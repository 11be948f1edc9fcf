"""Clocks: which there are on a device, what each does in which order, and what is refused."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from naslab.efficiency import InputError, measure_latency
from naslab.efficiency.clocks import CLOCKS, EndToEnd, GraphClock, KernelClock, clock_named, kernel_clock

CPU = torch.device("cpu")
CYCLES_PER_MS = 2_000_000


class FakeCuda:
    """A device whose clock is a number: work, sleeping and flushing advance it, and everything done is written down."""

    def __init__(self, capture_error=None):
        self.done, self.now, self._error = [], 0.0, capture_error
        self.generator = SimpleNamespace(clone_state=lambda: "as it was", graphsafe_set_state=self.done.append)
        self.default_generators = [self.generator]

    def Event(self, enable_timing):
        assert enable_timing
        event = SimpleNamespace(at=None)
        event.record = lambda: (setattr(event, "at", self.now), self.done.append("event"))
        event.elapsed_time = lambda other: other.at - event.at
        return event

    def synchronize(self, device):
        self.done.append("wait")

    def _sleep(self, cycles):
        self.now += cycles / CYCLES_PER_MS
        self.done.append("hold")

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=2**20)

    def work(self, milliseconds=3.0):
        self.now += milliseconds
        self.done.append("work")

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self.work(2.0))

    def Stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: None)

    def current_device(self):
        return 0

    def current_stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: None, name="before")

    def set_stream(self, stream):
        self.done.append(f"stream {stream.name}")

    def stream(self, stream):
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local", "other threads go on meanwhile"
        if self._error:
            raise RuntimeError(self._error)
        yield


def test_on_a_cpu_only_the_hosts_clock_is_there():
    assert clock_named("end to end", CPU).name == kernel_clock(CPU).name == "end to end"
    for name in ("kernel", "graph"):
        with pytest.raises(InputError, match=f"'{name}' needs a CUDA device; on cpu only 'end to end'"):
            clock_named(name, CPU)
    with pytest.raises(InputError, match="'sundial' is unknown; use end to end, kernel, graph"):
        clock_named("sundial", CPU)
    assert set(CLOCKS) == {EndToEnd.name, KernelClock.name, GraphClock.name}


def test_the_hosts_clock_reads_the_whole_call(hand):
    assert EndToEnd(CPU).sampler(lambda: hand.work(0.003))() == pytest.approx(3.0, abs=0.01)


def test_the_kernel_clock_reads_the_work_alone_behind_hold_and_flush():
    cuda = FakeCuda()
    clock = KernelClock(CPU, cuda=cuda)
    flush = clock._flushed
    assert flush.numel() >= 4 * 2**20
    clock._flushed = SimpleNamespace(zero_=lambda: (cuda.done.append("flush"), cuda.work(0.5)))
    sample = clock.sampler(cuda.work)
    cuda.done.clear()
    assert sample() == pytest.approx(3.0)
    assert cuda.done == ["wait", "hold", "flush", "work", "event", "work", "event", "wait"]


def test_whole_models_keep_their_cache():
    cuda = FakeCuda()
    sample = KernelClock(CPU, flush_l2=False, cuda=cuda).sampler(cuda.work)
    cuda.done.clear()
    sample()
    assert cuda.done == ["wait", "hold", "event", "work", "event", "wait"]


def test_the_device_is_held_as_long_as_launching_takes_but_not_without_bound(hand):
    cuda = FakeCuda()
    held = []
    cuda._sleep = held.append

    def slow_to_launch():
        hand.work(0.01)

    clock = KernelClock(CPU, flush_l2=False, cuda=cuda)
    clock._cycles_per_ms = lambda: CYCLES_PER_MS
    clock.sampler(slow_to_launch)()
    clock.sampler(lambda: hand.work(0.06))()
    assert held[0] == pytest.approx(20 * CYCLES_PER_MS, rel=0.01)
    assert held[1] == 50 * CYCLES_PER_MS


def test_the_graph_clock_captures_once_and_reads_replays():
    cuda, calls = FakeCuda(), []
    sample = GraphClock(CPU, cuda=cuda).sampler(lambda: calls.append(1))
    launched = len(calls)
    assert [sample(), sample()] == [2.0, 2.0]
    assert len(calls) == launched


def test_what_cannot_be_captured_is_refused_in_one_line():
    cuda = FakeCuda("operation not permitted when stream is capturing\nmore lines")
    with pytest.raises(InputError, match="'graph' cannot capture this model: operation not permitted") as caught:
        GraphClock(CPU, cuda=cuda).sampler(lambda: None)
    assert "\n" not in str(caught.value)
    assert cuda.done == ["stream before", "as it was"], "stream and generator come back from the capture"


def test_latency_reads_the_clock_that_it_is_given():
    cuda = FakeCuda()
    latency = measure_latency(
        cuda.work, min_seconds=0.0, max_seconds=0.2, clock=KernelClock(CPU, flush_l2=False, cuda=cuda)
    )
    assert latency.samples_ms == pytest.approx([3.0] * len(latency.samples_ms))
