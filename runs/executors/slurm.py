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
BRIEF_SECONDS = 60.0
"""Of a job that Slurm takes away so soon, the next is likely to be taken away, too; and the longest pause before it."""


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
        self._killed, self._brief = False, 0

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._hold_back()
        began = time.monotonic()
        job = WatchedJob(self._jobs.submit(pack(fn, args, kwargs)))
        self._await(job)
        ended = job.end(self._killed)
        brief = ended.fate == "taken" and time.monotonic() - began < BRIEF_SECONDS
        self._brief = self._brief + 1 if brief else 0
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

    def _hold_back(self) -> None:
        """Wait longer after each job that Slurm took away at once: a partition that takes no jobs would be flooded."""
        pause = min(2.0**self._brief - 1, BRIEF_SECONDS)
        if pause > QUEUE_SECONDS:
            self._say(f"Slurm took {self._brief} jobs away at once; the next is submitted in {pause:g} s")
        deadline = time.monotonic() + pause
        while time.monotonic() < deadline and not self._killed:
            time.sleep(POLL_SECONDS)
        if self._killed:
            raise WorkerDied("it was cancelled before it had a job")

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
