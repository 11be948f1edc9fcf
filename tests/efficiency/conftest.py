"""Time that passes only when a test says so."""

import pytest

from naslab.efficiency import clocks, energy, latency


class Hand:
    """A clock moved by hand: what the module under test reads instead of the machine's."""

    def __init__(self):
        self.seconds = 1000.0

    def work(self, seconds):
        """Let `seconds` pass, as a function that works for so long does."""
        self.seconds += seconds

    def now(self):
        """Seconds; reading takes a microsecond, so that a loop which waits for the clock ends."""
        self.seconds += 1e-6
        return self.seconds


@pytest.fixture
def hand(monkeypatch):
    """Replaces the clocks of the timing modules."""
    clock = Hand()
    monkeypatch.setattr(clocks, "perf_counter_ns", lambda: round(1e9 * clock.now()))
    monkeypatch.setattr(latency, "perf_counter", clock.now)
    monkeypatch.setattr(energy, "perf_counter", clock.now)
    return clock
