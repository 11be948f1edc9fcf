"""What runs in a Slurm job: one call in a worker process, and the record that the job leaves of its end."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Literal, NamedTuple

from naslab.runs.executors.base import WorkerDied
from naslab.runs.executors.host import Host, Surroundings

NOTICE_SECONDS = 120.0
"""So long before its time limit, at most, a job is warned or ended for it."""
ENDS = frozenset({signal.SIGTERM, signal.SIGINT})
"""What a job is ended with; it may take up to a minute until SIGKILL."""
WARNINGS = frozenset({signal.SIGUSR1, signal.SIGUSR2})
"""What it is told some time before, in which a further rung may still be reached."""
Fate = Literal["answer", "died", "taken", "time"]


class Ended(NamedTuple):
    """What a job says of its call: the answer's bytes, or why there is none."""

    fate: Fate
    answer: bytes = b""
    why: str = ""


def run_in_job(request: bytes, surroundings: Surroundings, seconds: float) -> Ended:
    """Main of a job of so many seconds: the end of its worker by the scheduler is told from one of its own.

    Whoever ends the job ends the worker at once, so that there is time to say so.
    """
    began, heard, hosts = time.monotonic(), list[int](), list[Host]()

    def hear(number: int, frame: FrameType | None) -> None:
        # It may interrupt itself: nothing in it waits for a lock.
        heard.append(number)
        if number in ENDS:
            for host in hosts:
                host.kill()

    for number in ENDS | WARNINGS:
        signal.signal(number, hear)
    host = Host(surroundings)
    hosts.append(host)
    try:
        if not ENDS.isdisjoint(heard):  # while it was started
            host.kill()
        return Ended("answer", host.call(request))
    except WorkerDied as death:
        if not heard:
            return Ended("died", why=str(death))
        late = time.monotonic() - began > seconds - NOTICE_SECONDS
        return Ended("time") if late else Ended("taken", why="Slurm took its job away")
    finally:
        host.close()
