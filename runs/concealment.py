"""Overwrites the password of a storage URL in this process's own command line once it has been read.

`ps` shows command lines to every user of a machine, Ray keeps that of a driver in its table of jobs, and started
processes are handed `sys.argv`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

from naslab.runs.processes import stat_fields
from naslab.runs.storage_url import starred

_ARG_START = 45
"""Of the values of /proc/PID/stat that follow the command's name, where the arguments' memory begins (proc(5))."""


def conceal_passwords() -> None:
    """Put stars in the place of passwords, in `sys.argv` and, on Linux, in what the system shows."""
    before = sys.argv
    sys.argv = [starred(argument) for argument in before]
    if sys.argv != before and sys.platform == "linux":
        with suppress(OSError, ValueError, IndexError):
            _overwrite_arguments()


def _overwrite_arguments() -> None:
    start, end = map(int, (stat_fields("self") or ())[_ARG_START : _ARG_START + 2])
    if not 0 < start < end:
        return
    old = ctypes.string_at(start, end - start)
    new = b"\0".join(os.fsencode(starred(os.fsdecode(argument))) for argument in old.split(b"\0"))
    if len(new) == len(old) and old == Path("/proc/self/cmdline").read_bytes():
        ctypes.memmove(start, new, len(new))
