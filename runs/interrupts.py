"""Ctrl-C and SIGTERM, and when a driver handles them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GRACE_SECONDS = 5.0
"""After so long a further Ctrl-C is raised wherever the driver is: it may wait for something that never comes."""
RESUME = "interrupted; run the same command again to resume"
_asked = False
"""Whether `interrupt` was called, whatever became of what it raised."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Python ends a process by the signal itself once a plain KeyboardInterrupt has left code in a
    string, such as that of a dataclass, even where it was caught; not so with a class of its own."""


def interrupt(*_: object) -> None:
    """What a signal calls outside `HeldBack`, which hears of it later where Python drops what is raised: in a
    finaliser, as the lock of every import has one, or in native code that takes every error for an answer."""
    global _asked
    _asked = True
    raise Interrupted


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM, with which schedulers announce a pre-emption, ends the study as Ctrl-C does."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked = False


class HeldBack:
    """While inside `with`, an interruption waits until the driver asks for it.

    Raised out of nowhere it could come between the two halves of a record; or within a finaliser, where Python prints
    it and goes on as if nothing had been.
    """

    def __init__(self) -> None:
        self._since: float | None = None  # when the first came
        self._before: dict[int, Any] = {}

    def __enter__(self) -> HeldBack:
        if threading.current_thread() is threading.main_thread():
            if _asked:
                raise Interrupted
            found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            # One that is ignored, as in the background of a shell, stays so.
            self._before = {number: handler for number, handler in found.items() if callable(handler)}
            for number in self._before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was an interruption."""
        if self._since is not None:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > GRACE_SECONDS:
            self._before[number](number, frame)
