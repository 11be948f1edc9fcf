"""Persistent worker processes on this machine, one per slot, which end with the driver even if it is killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from naslab.runs.executors.base import Slot, SlotExecutor
from naslab.runs.executors.guard import Guard
from naslab.runs.executors.process import WorkerProcess, pack, unpack


class LocalExecutor(SlotExecutor):
    """A process for each of `slots` (slots.py)."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._guard = Guard()
        super().__init__([_LocalWorker(slot, self._guard) for slot in slots])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See SlotExecutor.shutdown."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._guard.close()


class _LocalWorker:
    def __init__(self, slot: Slot, guard: Guard) -> None:
        self.slot = slot
        visible = {} if slot.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)}
        self._process = WorkerProcess(guard, visible)

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return unpack(self._process.exchange(pack(fn, args, kwargs)))

    def kill(self) -> None:
        self._process.kill()

    def renew(self) -> None:
        self._process.renew()

    def close(self) -> None:
        self._process.close()
