"""Slurm jobs through submitit: one job per call; calls that wait at the same time form one array.

Slurm and submitit send nothing back into the queue themselves: a job that is cut off is an attempt on record, and the
driver submits the next, which goes on from the checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naslab.runs.executors.base import NodeLost, Say, Slot, SlotExecutor, WorkerDied
from naslab.runs.executors.host import cluster_slot
from naslab.runs.executors.process import pack, unpack
from naslab.runs.executors.slurm_job import Ended
from naslab.runs.executors.slurm_submit import Jobs
from naslab.runs.executors.slurm_watch import WatchedJob

if TYPE_CHECKING:
    from naslab.runs.executors.options import Slurm

POLL_SECONDS = 0.2
"""How often a job's answer is looked for, which is a file."""
QUEUE_SECONDS = 10.0
"""After so long in the queue the user is told."""
CANCEL_SECONDS = 3.0
"""So long a job that was cancelled may take before it is told again."""


class SlurmExecutor(SlotExecutor):
    """As many jobs at once as there are slots.

    Args:
        folder: for the jobs' own files; every machine sees it.

    Raises:
        InputError: no Slurm here.
    """

    def __init__(self, choice: Slurm, slots: int, gpus: float, folder: Path, say: Say) -> None:
        slot = cluster_slot(choice, gpus)
        self._jobs = Jobs(choice, int(gpus), folder, say)
        super().__init__([_SlurmWorker(slot, self._jobs, say) for _ in range(slots)])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See SlotExecutor.shutdown."""
        if cancel_futures:
            self._jobs.give_up()
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._jobs.close()


class _SlurmWorker:
    def __init__(self, slot: Slot, jobs: Jobs, say: Say) -> None:
        self.slot = slot
        self._jobs, self._say = jobs, say
        self._killed = False

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        job = WatchedJob(self._jobs.submit(pack(fn, args, kwargs)))
        self._await(job)
        ended = job.end(self._killed)
        if ended.fate == "answer":
            job.forget()
            return unpack(ended.answer)
        raise self._death(ended)

    def kill(self) -> None:
        self._killed = True

    def renew(self) -> None:
        self._killed = False

    def close(self) -> None:
        return

    def _await(self, job: WatchedJob) -> None:
        began, told, cancelled = time.monotonic(), False, -math.inf
        while not job.is_over():
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            if self._killed and now - cancelled > CANCEL_SECONDS:
                job.cancel()
                cancelled = now
            if not told and now - began > QUEUE_SECONDS:
                told = True
                if job.waits():
                    self._say(f"Slurm job {job.number} waits in the queue")

    def _death(self, ended: Ended) -> WorkerDied:
        if self._killed:
            return WorkerDied("its job was cancelled")
        if ended.fate == "time":
            return WorkerDied(f"its Slurm job came to its time limit (executor.hours: {self._jobs.hours:g})")
        return NodeLost(ended.why) if ended.fate == "taken" else WorkerDied(ended.why)
