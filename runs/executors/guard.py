"""The guard: a small process that ends a driver's workers, and all that these started, when the driver is gone.

A driver that is killed can end nobody, and a worker that is stopped or busy in native code cannot end itself. The guard
reads the numbers of the workers' process groups from a pipe; the pipe closes when the driver dies, however it dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

_PROGRAM = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == '+' else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Guard:
    """Ends the process groups that it was told of when this process is gone or `close` is called."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        # In a session of its own, so that Ctrl-C in the terminal does not reach it before the driver has ended.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def watch(self, group: int) -> None:
        """Take care of a process group."""
        self._groups.add(group)
        self._say(f"+{group}")

    def forget(self, group: int) -> None:
        """The group has ended; its number may get another owner."""
        self._groups.discard(group)
        self._say(f"-{group}")

    def close(self) -> None:
        """End whatever is left of the groups."""
        with self._lock:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        with self._lock:
            assert self._process.stdin is not None
            if self._process.stdin.closed:
                return
            if self._process.poll() is not None:  # whoever killed it did not mean the study; the next knows as much
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
                self._start()
                line = "\n".join(f"+{group}" for group in tuple(self._groups)) or line
            with suppress(BrokenPipeError):
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()


def end_group(group: int) -> None:
    """Kill every process of a group that is left."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
