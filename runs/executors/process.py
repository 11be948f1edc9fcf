"""A persistent worker process: answers calls one after another until it is ended.

It may have children (data loaders, a torchrun job): it leads a process group, which ends with it. What goes in and out
are bytes, so that whoever stands between it and the driver needs none of the user's modules.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from naslab.errors import NaslabError
from naslab.runs.executors.base import WorkerDied
from naslab.runs.executors.guard import Guard, end_group
from naslab.runs.threads import let_threads_sleep

_DONE, _RAISED, _USELESS = b"+", b"-", b"!"
"""How an answer begins; after the last the process is of no more use."""
_CONTEXT = (
    multiprocessing.get_context("forkserver") if sys.platform == "linux" else multiprocessing.get_context("spawn")
)
"""One process imports PyTorch, once, and does nothing else: workers are copies of it, there in milliseconds. As Python
3.14 does by default; what macOS links in does not survive a copy."""
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What a scheduler sends to all processes of a job some time before it ends them."""
OF_THE_DRIVER = (signal.SIGINT, *WARNINGS)
"""What goes to all processes of a group or a job, and is for the driver alone to answer."""
IMPORTED = ("naslab.runs.worker", "torch._dynamo")
"""Before the copies are made; every optimiser imports the second, which takes as long as the rest of PyTorch."""


def prepare_copies() -> None:
    """Let what workers are copies of begin its imports, unless it is there: they take seconds, and others go on."""
    let_threads_sleep()  # read when PyTorch is imported
    if sys.platform == "linux":
        _CONTEXT.set_forkserver_preload(list(IMPORTED))
        resource_tracker.ensure_running()  # beforehand, as it would let Ctrl-C in again
        with _held_back():
            forkserver.ensure_running()


@contextmanager
def _held_back() -> Iterator[None]:
    """What is started inside does not hear, before it ignores it, what it would end at, with a page of errors."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_DRIVER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerProcess:
    """One process and the pipe to it.

    Args:
        guard: ends its group if this process dies.
        environment: variables that it is started with, beside this process's own.
    """

    def __init__(self, guard: Guard, environment: Mapping[str, str] | None = None) -> None:
        self._guard, self._environment = guard, dict(environment or {})
        self._start()

    def _start(self) -> None:
        prepare_copies()
        self._pipe, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs, {**os.environ, **self._environment}))
        with _held_back():
            _start_copy(process)
        assert process.pid is not None
        self._process, self._group = process, process.pid  # only now: another thread may kill what stands here
        self._useless, self._buried = False, False
        self._end = _end_of(process)
        self._guard.watch(self._group)
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process, and of the group that it leads."""
        return self._group

    def exchange(self, request: bytes) -> bytes:
        """The answer to a request of `pack`.

        Raises:
            WorkerDied: it ended before it answered.
        """
        try:
            self._pipe.send_bytes(request)
            if self._end in wait([self._pipe, self._end]):
                end_group(self._group)  # a child that is left would keep the pipe open
            answer = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self.kill()  # a task that closed the pipe may run on; the exit code of one that has ended stays
            self._process.join()
            raise WorkerDied(f"the worker process ended with exit code {self._process.exitcode}") from None
        if answer.startswith(_USELESS):
            self.kill()
        return answer

    def kill(self) -> None:
        """End it and what it started; safe from another thread."""
        self._useless = True
        self._process.kill()  # alone first, as it may not lead its group yet
        end_group(self._group)

    def renew(self) -> None:
        """Start again, if it is of no more use."""
        if self._useless or not self._process.is_alive():
            self.kill()
            self._bury()
            self._start()

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._bury()

    def _bury(self) -> None:
        """Wait for its end, and end whatever it started; once, as the numbers may then get other owners."""
        if self._buried:
            return
        self._buried = True
        self._process.join()
        end_group(self._group)
        self._guard.forget(self._group)
        self._pipe.close()
        if self._end != self._process.sentinel:
            os.close(self._end)


def _start_copy(process: BaseProcess) -> None:
    """Start it. What it is to be a copy of may end meanwhile, by a signal to all of a group, and is then made anew."""
    for pause in (0.05, 0.5):
        try:
            process.start()
        except (EOFError, ConnectionError):
            time.sleep(pause)  # until the system has buried it
        else:
            return
    process.start()


def _end_of(process: BaseProcess) -> int:
    """What is ready to be read once it has ended. Its sentinel is a pipe that forked children keep open after that."""
    if hasattr(os, "pidfd_open"):
        with suppress(ProcessLookupError):  # killed while it started
            return os.pidfd_open(cast(int, process.pid))
    return process.sentinel


def pack(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """A request: `fn` goes by its name."""
    return pickle.dumps((fn, args, kwargs))


def unpack(answer: bytes) -> Any:
    """What the call returned; what it raised is raised."""
    value = pickle.loads(answer[1:])
    if answer[:1] == _DONE:
        return value
    raise value


def _work(pipe: Connection, environment: Mapping[str, str]) -> None:
    """Main of a worker: answer calls until the pipe closes. Ctrl-C, and a scheduler's warnings, are the driver's."""
    os.environ.clear()  # that of whoever was there when the first worker was started
    os.environ.update(environment)
    os.setsid()  # before anything is started: children belong to its group and to no terminal
    os.register_at_fork(after_in_child=pipe.close)  # else one that leaves the group keeps it open when this is gone
    for number in OF_THE_DRIVER:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_DRIVER)
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        try:
            pipe.send_bytes(_answer(request))
        except BrokenPipeError:
            return


def _answer(request: bytes) -> bytes:
    try:
        fn, args, kwargs = pickle.loads(request)
        return _DONE + pickle.dumps(fn(*args, **kwargs))
    except WorkerDied as death:
        return _USELESS + pickle.dumps(death)
    except Exception as error:  # noqa: BLE001 - the caller's future carries it
        return _RAISED + _pickled(error)


def _pickled(error: Exception) -> bytes:
    """The exception; of one that cannot travel, what it says."""
    try:
        return pickle.dumps(pickle.loads(pickle.dumps(error)))
    except Exception:  # noqa: BLE001 - whatever its own methods raise
        return pickle.dumps(NaslabError(f"{type(error).__name__}: {error}"))
