"""Retries of requests to an unreachable database server, until it answers.

A server is restarted, fails over to another machine, or is cut off for a while. The trials that run meanwhile need no
storage, so the driver waits rather than ends. What was asked may have been done before its answer was lost: an action
is told when it is asked again, and must then do nothing twice.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TypeVar

from naslab.errors import InputError

RECONNECT_SECONDS = 600.0
"""For so long a driver waits for a server that does not answer."""
RECONNECT_VARIABLE = "NASLAB_RECONNECT_SECONDS"
RETRY_SECONDS = 0.5
T = TypeVar("T")


class StorageAway(InputError):
    """The database server does not answer, or has broken off; whether it did what it was asked for is not known."""


class Patience:
    """Asks again while the storage is away.

    Args:
        seconds: for so long; then StorageAway is raised.
        say: takes the lines that say that it is away, and that it is back.
    """

    def __init__(self, seconds: float = 0.0, say: Callable[[str], None] = lambda line: None) -> None:
        self._seconds, self._say = seconds, say
        self.check: Callable[[], None] = lambda: None
        """Called between two tries: raises where waiting makes no more sense."""

    def __call__(self, action: Callable[[bool], T]) -> T:
        """The answer of `action`, which is called with whether it was asked before.

        Raises:
            StorageAway: there was none for so long.
        """
        began: float | None = None
        while True:
            try:
                answer = action(began is not None)
            except StorageAway as away:
                if began is None:
                    began = time.monotonic()
                    if self._seconds:
                        self._say(f"{away}; asking again for up to {self._seconds:g} s, running trials go on")
                if time.monotonic() - began >= self._seconds:
                    raise self._over(away) from None
                self.check()
                time.sleep(RETRY_SECONDS)
            else:
                if began is not None:
                    self._say(f"the storage answers again, after {time.monotonic() - began:.0f} s")
                return answer

    def end(self) -> None:
        """Have none any more: whoever asked is leaving."""
        self._seconds = 0.0

    def _over(self, away: StorageAway) -> StorageAway:
        waited = f", for {self._seconds:g} s; nothing is lost, the same command resumes" if self._seconds else ""
        return StorageAway(f"{away}{waited}")


def reconnect_seconds() -> float:
    """For how many seconds a driver waits for its storage.

    Raises:
        InputError: NASLAB_RECONNECT_SECONDS is no number from 0.
    """
    given = os.environ.get(RECONNECT_VARIABLE)
    try:
        seconds = RECONNECT_SECONDS if given is None else float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{RECONNECT_VARIABLE}={given}: give the seconds for which a driver waits for its storage")
    return seconds
