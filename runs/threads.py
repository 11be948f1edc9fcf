"""The number of CPU threads of a worker: the cores available to this process, not those of the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def threads_per_slot(slots: int) -> int:
    """Threads of each of `slots` workers: OMP_NUM_THREADS where it is set, else an even share of the usable cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return max(1, usable_cores() // slots)


def let_threads_sleep() -> None:
    """Make OpenMP threads of processes that are started from here on sleep where they wait for one another.

    By default those of GNU's library turn on the spot for milliseconds. Where another program needs the core, that is
    the time that the awaited thread lacks: a step of two threads beside one busy process took 40 times as long, by the
    CPU clock too. 1,000 turns, which the library takes itself where it knows of more threads than cores, cost nothing
    on an idle machine and leave twice the time. A policy that the user has chosen stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def usable_cores() -> int:
    """Cores that this process may use at once: its affinity, and the CPU quota of its control group."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.floor(quota) for quota in _quotas(Path("/")))]))


def _quotas(root: Path) -> Iterator[float]:
    """Quotas in cores of this process's control group and of those around it, versions 2 and 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if base in (folder, *folder.parents):
                yield from _quota_of(folder)


def _quota_of(folder: Path) -> Iterator[float]:
    for read in (_version_2, _version_1):
        try:
            quota, period = read(folder)
        except (OSError, ValueError):
            continue
        if quota > 0:
            yield quota / period


def _version_2(folder: Path) -> tuple[float, float]:
    quota, period = (folder / "cpu.max").read_text().split()
    return float(quota), float(period)  # "max" is no number: no quota


def _version_1(folder: Path) -> tuple[float, float]:
    return float((folder / "cpu.cfs_quota_us").read_text()), float((folder / "cpu.cfs_period_us").read_text())
