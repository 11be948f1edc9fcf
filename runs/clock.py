"""The CPU clock of a worker and its children: the cost of a trial on a CPU, independent of other load."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Iterable

from naslab.runs.processes import stat_fields

_peers: dict[int, float] = {}
"""Seconds of the other processes of a trial, by process."""


def count_peers(pids: Iterable[int]) -> None:
    """Let the clock count these processes, which train the same trial, too."""
    _peers.update(dict.fromkeys(pids, 0.0))


def cpu_seconds() -> float:
    """Seconds of processor time that this process, its threads and its children have had; grows only.

    Children that have ended count from the kernel's own sum, living ones (data loaders) from /proc where there is one.
    """
    living = sum(_of_process(child.pid) for child in multiprocessing.active_children())
    for pid, before in _peers.items():
        _peers[pid] = max(before, _of_process(pid))  # what it had when it ended stays
    living += sum(_peers.values())
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + living


def _of_process(pid: int | None) -> float:
    """User and system time of a living process and of those of its children that have ended; 0 if it is gone."""
    fields = None if pid is None else stat_fields(pid)
    return 0.0 if fields is None else sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
