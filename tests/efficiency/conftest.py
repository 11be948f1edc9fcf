"""Time that passes only when a test says so."""

import pytest

from naslab.efficiency import clocks, energy, latency, training_step


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
    for module in (clocks, training_step):
        monkeypatch.setattr(module, "perf_counter_ns", lambda: round(1e9 * clock.now()))
    for module in (latency, energy, training_step):
        monkeypatch.setattr(module, "perf_counter", clock.now)
    return clock
