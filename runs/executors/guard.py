"""The guard: a small process that ends a driver's workers, and all their processes, when the driver is gone.

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
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
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
        # In a session of its own, so that Ctrl-C in the terminal does not reach it before the driver has ended; and
        # nobody's child, as Ray ends those of an actor together with it.
        started = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert started.stdin is not None
        assert started.stdout is not None
        self._told, self._heard = started.stdin, started.stdout
        started.wait()
        self.pid = int(self._heard.readline())

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
            with suppress(BrokenPipeError):
                self._told.close()
            self._heard.read()  # until it has ended
            self._heard.close()

    def _say(self, line: str) -> None:
        with self._lock:
            if self._told.closed:
                return
            try:
                self._write(line)
            except BrokenPipeError:  # whoever killed it did not mean the study; the next knows as much
                with suppress(BrokenPipeError):
                    self._told.close()
                self._heard.close()
                self._start()
                self._write("\n".join(f"+{group}" for group in tuple(self._groups)) or line)

    def _write(self, line: str) -> None:
        self._told.write(line + "\n")
        self._told.flush()


def end_group(group: int) -> None:
    """Kill every process of a group that is left."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
