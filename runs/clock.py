"""The CPU clock of a worker and its children: what a trial costs on a CPU, whatever else the machine does meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path


def cpu_seconds() -> float:
    """Seconds of processor time that this process, its threads and its children have had; grows only.

    Children that have ended count from the kernel's own sum, living ones (data loaders) from /proc where there is one.
    """
    living = sum(_of_process(child.pid) for child in multiprocessing.active_children())
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + living


def _of_process(pid: int | None) -> float:
    """User and system time of a living process and of those of its children that have ended; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The second field is a name in brackets, which may hold spaces; of the rest, the 12th to 15th are the times.
    times = text.rpartition(")")[2].split()[11:15]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
