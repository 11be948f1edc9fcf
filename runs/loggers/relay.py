"""The driver's side of the loggers: one thread each, so that none can fail or delay a study."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping

from naslab.runs.faults import in_one_line
from naslab.runs.loggers.protocol import Logger
from naslab.runs.storage_url import shown
from naslab.runs.trial import RungRecord, Trial

CLOSING_SECONDS = 30.0
"""How long the end of a study waits for its loggers."""


class Loggers:
    """All loggers of a study as one.

    Args:
        loggers: by the name that a warning gives them.
        say: takes a line of warning.
    """

    def __init__(self, loggers: Mapping[str, Logger], say: Callable[[str], None]) -> None:
        self._relays = [_Relay(name, logger, say) for name, logger in loggers.items()]

    def began(self, trial: Trial) -> None:
        """A trial runs."""
        self._tell(lambda logger: logger.began(trial))

    def rung(self, trial: Trial, rung: RungRecord) -> None:
        """A running trial has reported a rung."""
        self._tell(lambda logger: logger.rung(trial, rung))

    def ended(self, trial: Trial) -> None:
        """A trial has its final record."""
        self._tell(lambda logger: logger.ended(trial))

    def close(self) -> None:
        """Wait a while until all is written."""
        deadline = time.monotonic() + CLOSING_SECONDS
        for relay in self._relays:
            relay.tell(None)
        for relay in self._relays:
            relay.join(max(deadline - time.monotonic(), 0.0))

    def _tell(self, event: Callable[[Logger], None]) -> None:
        for relay in self._relays:
            relay.tell(event)


class _Relay:
    """Hands one logger what it is told, until its first failure."""

    def __init__(self, name: str, logger: Logger, say: Callable[[str], None]) -> None:
        self._name, self._logger, self._say = name, logger, say
        self._events: queue.SimpleQueue[Callable[[Logger], None] | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def tell(self, event: Callable[[Logger], None] | None) -> None:
        if not self._failed:
            self._events.put(event)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._failed = True
            self._say(f"logger {self._name} is not done after {CLOSING_SECONDS:g} s; the study is done without it")

    def _work(self) -> None:
        try:
            while (event := self._events.get()) is not None:
                event(self._logger)
            self._logger.close()
        except BaseException as problem:  # noqa: BLE001 - whatever a library does, it is not the study's trouble
            self._failed = True
            self._say(f"logger {self._name} failed, the study continues without it: {shown(in_one_line(problem))}")
