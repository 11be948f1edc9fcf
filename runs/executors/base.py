"""The contract of every executor: `concurrent.futures.Executor` in slots, each with its device and a worker of its own.

One thread a slot hands calls to the slot's worker and waits for the answer or the worker's death. A dead worker fails
its own call with WorkerDied and is replaced.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from naslab.errors import NaslabError

Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Say = Callable[[str], None]
"""Takes a line for the user."""


class WorkerDied(NaslabError):
    """The process that ran a call is gone without an answer: killed, out of memory, or crashed.

    A call may raise it itself where its process is of no more use, such as one whose device answers nothing but errors:
    the executor then ends that process and starts another.
    """


class NodeLost(WorkerDied):
    """What the worker ran on was taken away: a lost node, a pre-emption. The call had no part in it."""


@dataclass(frozen=True)
class Slot:
    """What one call at a time runs on.

    Attributes:
        device: as the slot's own processes name it, such as cpu or cuda:0.
        share: what a second on it is charged for, in seconds of one GPU: a fraction of one, or several. A slot on a
            CPU has 1: it is charged by the clock of its cores.
        threads: CPU threads for all its processes; None: as many as the worker finds that it may use.
        gpus: what its processes see of the machine's GPUs, in the words of CUDA_VISIBLE_DEVICES; None: what they find.
        processes: so many train a trial together.
        parallel: how they hold its model.
    """

    device: str
    share: float = 1.0
    threads: int | None = None
    gpus: tuple[str, ...] | None = None
    processes: int = 1
    parallel: Literal["ddp", "fsdp2"] = "ddp"


class Worker(Protocol):
    """What a slot's calls run in."""

    slot: Slot

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer of `fn`, or its exception; WorkerDied where it has none."""

    def kill(self) -> None:
        """End what it runs, from another thread; `call` then raises WorkerDied."""

    def renew(self) -> None:
        """Start again, if it is dead; where that fails, the next call says so."""

    def close(self) -> None:
        """End for good."""


class SlotExecutor(Executor):
    """Runs calls in `workers`, one at a time in each."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._calls: queue.Queue[Call | None] = queue.Queue()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._present: dict[int, Future[Any]] = {}
        """What each worker works on, by its number."""
        self._workers = list(workers)
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(len(workers))]
        for thread in self._threads:
            thread.start()

    @property
    def slots(self) -> list[Slot]:
        """What the calls run on."""
        return [worker.slot for worker in self._workers]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, slot=..., **kwargs)` in the next free worker; `fn` is imported there by name."""
        if self._closing.is_set():
            raise RuntimeError("the executor is shut down")
        future: Future[Any] = Future()
        self._calls.put((future, fn, args, kwargs))
        return future

    def kill(self, future: Future[Any]) -> None:
        """End the worker that runs `future`, which then fails with WorkerDied; nothing where none does."""
        with self._lock:
            for number, present in self._present.items():
                if present is future:
                    self._workers[number].kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers: after their present calls, or with `cancel_futures` at once."""
        self._closing.set()
        if cancel_futures:
            self._cancel_waiting()
            for worker in self._workers:
                worker.kill()
        for _ in self._threads:
            self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _cancel_waiting(self) -> None:
        while not self._calls.empty():
            call = self._calls.get()
            if call is not None:
                call[0].cancel()

    def _serve(self, number: int) -> None:
        worker = self._workers[number]
        while (call := self._calls.get()) is not None:
            future, fn, args, kwargs = call
            if not future.set_running_or_notify_cancel():
                continue
            with self._lock:
                self._present[number] = future
            try:
                answer, error = worker.call(fn, args, {**kwargs, "slot": worker.slot}), None
            except BaseException as problem:  # noqa: BLE001 - handed to whoever waits for the future
                answer, error = None, problem
            with self._lock:
                del self._present[number]
            if not self._closing.is_set():
                with suppress(Exception):  # a slot that ended here would leave the driver waiting
                    worker.renew()
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)
        worker.close()
