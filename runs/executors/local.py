"""Warm worker processes on this machine, each holding one device slot.

One thread per slot hands calls to its process and waits for the answer or the process's death; a dead process fails
its own call with WorkerDied and is replaced. A worker may have children (data loaders, a torchrun job): it leads a
process group, which ends with it. Workers end with the driver, even when that is killed (guard.py).
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from naslab.runs.executors.base import WorkerDied
from naslab.runs.executors.guard import Guard, end_group

Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class LocalExecutor(Executor):
    """`slots` processes; a call gets the slot's device as its keyword argument `device`.

    Args:
        slots: how many calls run at once.
        device: `cpu`, or `cuda` to deal out this machine's GPUs in turn.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self._calls: queue.Queue[Call | None] = queue.Queue()
        self._closing = threading.Event()
        self._guard = Guard()
        self._slots = [_Slot(_slot_device(device, i), self._guard) for i in range(slots)]
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots]
        for thread in self._threads:
            thread.start()

    @property
    def shares(self) -> dict[str, float]:
        """By device, the fraction of it that each of its slots is charged for: 1 over their number on an accelerator.

        A slot on a CPU has cores of its own, and is charged by their clock.
        """
        dealt = Counter(slot.device for slot in self._slots)
        return {device: 1.0 if torch.device(device).type == "cpu" else 1 / slots for device, slots in dealt.items()}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, device=..., **kwargs)` in the next free worker; `fn` is imported there by name."""
        if self._closing.is_set():
            raise RuntimeError("the executor is shut down")
        future: Future[Any] = Future()
        self._calls.put((future, fn, args, kwargs))
        return future

    def kill(self, future: Future[Any]) -> None:
        """End the worker that runs `future`, which then fails with WorkerDied; nothing where none does."""
        for slot in self._slots:
            if slot.future is future:
                slot.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers: after their present calls, or with `cancel_futures` at once."""
        self._closing.set()
        if cancel_futures:
            while not self._calls.empty():
                call = self._calls.get()
                if call is not None:
                    call[0].cancel()
            for slot in self._slots:
                slot.kill()
        for _ in self._threads:
            self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join()
            self._guard.close()

    def _serve(self, slot: _Slot) -> None:
        while (call := self._calls.get()) is not None:
            future, fn, args, kwargs = call
            if not future.set_running_or_notify_cancel():
                continue
            slot.future = future
            try:
                answer, error = slot.call(fn, args, {**kwargs, "device": slot.device}), None
            except BaseException as problem:  # noqa: BLE001 - handed to whoever waits for the future
                answer, error = None, problem
            slot.future = None
            if not slot.alive:
                slot.bury()
                self._start_again(slot)
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)
        slot.kill()
        slot.bury()

    def _start_again(self, slot: _Slot) -> None:
        if self._closing.is_set():
            return
        try:
            slot.start()
        except OSError:  # the worker was killed while it started
            if not self._closing.is_set():
                raise


class _Slot:
    """One worker process and the pipe to it."""

    def __init__(self, device: str, guard: Guard) -> None:
        self.device = device
        self.future: Future[Any] | None = None
        """What it works on."""
        self._guard = guard
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,))
        process.start()
        assert process.pid is not None
        self._process, self._group = process, process.pid  # only now: another thread may kill what stands here
        self._buried = False
        # The process itself, as its sentinel is a pipe that forked children keep open when it is gone.
        self._end = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else process.sentinel
        self._guard.watch(self._group)
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        # Alone first, as it may not lead its group yet.
        self._process.kill()
        end_group(self._group)

    def bury(self) -> None:
        """Wait for its end, and end whatever it started; once, as the numbers may then get other owners."""
        if self._buried:
            return
        self._buried = True
        self._process.join()
        end_group(self._group)
        self._guard.forget(self._group)
        if self._end != self._process.sentinel:
            os.close(self._end)

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self._pipe.send((fn, args, kwargs))
            if self._end in wait([self._pipe, self._end]):
                end_group(self._group)  # a child that is left would keep the pipe open
            succeeded, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerDied(f"the worker process ended with exit code {self._process.exitcode}") from None
        if succeeded:
            return answer
        if isinstance(answer, WorkerDied):
            self.kill()
            self._process.join()
        raise answer


def _slot_device(device: torch.device, slot: int) -> str:
    if device.type != "cuda" or device.index is not None:
        return str(device)
    return f"cuda:{slot % torch.cuda.device_count()}"


def _work(pipe: Connection) -> None:
    """Main of a worker: answer calls until the pipe closes. Ctrl-C is the driver's business."""
    os.setsid()  # before anything is started: children belong to its group and to no terminal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            fn, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the caller's future carries it
            answer = (False, error)
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return
