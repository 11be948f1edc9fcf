"""What the system says of a process: its entry in /proc, and whether one that was named in a record still runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def stat_fields(pid: int | str) -> list[str] | None:
    """The fields of /proc/PID/stat from the third, the state, on (proc(5)); None of a process that is gone.

    The second is a name in brackets, which may hold spaces and brackets itself.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def this_process() -> dict[str, Any]:
    """What tells this process from all others, on any machine."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "born": _born(pid)}


def is_of_this_machine(process: Mapping[str, Any]) -> bool:
    """Whether a process of `this_process` is, or was, one of this machine."""
    here = _machine()
    return here is not None and process["machine"] == here


def has_ended(process: Mapping[str, Any]) -> bool:
    """Whether a process of this machine is no more; its number may have a new owner."""
    return bool(_born(process["pid"]) != process["born"])


def _machine() -> str | None:
    """What tells machines and containers apart; None where it cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """When a living process began, in the kernel's own count; None for one that is dead or waits to be buried."""
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]
