"""Warm worker processes on this machine, each holding one device slot.

One thread per slot hands calls to its process and waits for the answer or the process's death; a dead process fails
its own call with WorkerDied and is replaced. Workers end with the driver, even when that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from naslab.runs.executors.base import WorkerDied

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
        self._slots = [_Slot(_slot_device(device, i)) for i in range(slots)]
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, device=..., **kwargs)` in the next free worker; `fn` is imported there by name."""
        if self._closing.is_set():
            raise RuntimeError("the executor is shut down")
        future: Future[Any] = Future()
        self._calls.put((future, fn, args, kwargs))
        return future

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

    def _serve(self, slot: _Slot) -> None:
        while (call := self._calls.get()) is not None:
            future, fn, args, kwargs = call
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(slot.call(fn, args, {**kwargs, "device": slot.device}))
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the future
                future.set_exception(error)
            if not slot.alive and not self._closing.is_set():
                slot.start()
        slot.kill()


class _Slot:
    """One worker process and the pipe to it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        self._process = process  # only now: another thread may kill what stands here
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self._pipe.send((fn, args, kwargs))
            wait([self._pipe, self._process.sentinel])
            succeeded, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerDied(f"the worker process ended with exit code {self._process.exitcode}") from None
        if succeeded:
            return answer
        raise answer


def _slot_device(device: torch.device, slot: int) -> str:
    if device.type != "cuda" or device.index is not None:
        return str(device)
    return f"cuda:{slot % torch.cuda.device_count()}"


def _work(pipe: Connection) -> None:
    """Main of a worker: answer calls until the pipe closes. Ctrl-C is the driver's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    while True:
        try:
            fn, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the caller's future carries it
            answer = (False, error)
        pipe.send(answer)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
