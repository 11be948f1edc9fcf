"""Slurm jobs through submitit: each call is a job, and those that wait at the same time are one array.

Slurm and submitit send nothing back into the queue themselves: a job that is cut off is an attempt on record, and the
driver submits the next, which goes on from the checkpoint.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import submitit
from submitit.core.core import Job

from naslab.errors import InputError
from naslab.runs.executors.base import NodeLost, Say, Slot, SlotExecutor, WorkerDied
from naslab.runs.executors.host import Surroundings
from naslab.runs.executors.process import pack, unpack
from naslab.runs.executors.slurm_job import Ended, run_in_job
from naslab.runs.executors.slurm_watch import WatchedJob
from naslab.runs.faults import in_one_line

if TYPE_CHECKING:
    from naslab.runs.executors.options import Slurm

POLL_SECONDS = 0.2
"""How often a job's answer is looked for, which is a file."""
GATHER_SECONDS = 0.3
"""So long the first of several calls waits for others to stand in one array."""
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
        slot = Slot(
            "cuda:0" if gpus else "cpu", gpus or 1.0, choice.cpus, processes=choice.processes, parallel=choice.parallel
        )
        self._jobs = _Jobs(_submitter(choice, int(gpus), folder), Surroundings.here(choice.environment), choice.hours)
        super().__init__([_SlurmWorker(slot, self._jobs, say) for _ in range(slots)])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See SlotExecutor.shutdown."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._jobs.close()


def _submitter(choice: Slurm, gpus: int, folder: Path) -> submitit.AutoExecutor:
    try:
        submitter = submitit.AutoExecutor(folder.absolute(), cluster=choice.cluster)
    except RuntimeError as error:
        raise InputError(
            f"executor: no Slurm on this machine ({in_one_line(error)}); `cluster: local` tries a study out without"
        ) from None
    wanted: dict[str, Any] = {
        "name": "naslab",
        "timeout_min": max(1, round(60 * choice.hours)),
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": choice.cpus,
        "gpus_per_node": gpus or None,
        "mem_gb": choice.memory_gb,
        "slurm_partition": choice.partition,
        "slurm_account": choice.account,
        "slurm_additional_parameters": {"no_requeue": True, **choice.sbatch},
    }
    submitter.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
    return submitter


class _Jobs:
    """Submits calls, and several that come at once as one array."""

    def __init__(self, submitter: submitit.AutoExecutor, surroundings: Surroundings, hours: float) -> None:
        self._submitter, self._surroundings, self.hours = submitter, surroundings, hours
        self._waiting: queue.Queue[tuple[bytes, Future[Job[Ended]]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._submit_arrays, daemon=True)
        self._thread.start()

    def submit(self, request: bytes) -> Job[Ended]:
        """The job that runs it.

        Raises:
            InputError: Slurm does not take it.
        """
        submitted: Future[Job[Ended]] = Future()
        self._waiting.put((request, submitted))
        return submitted.result()

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _submit_arrays(self) -> None:
        while (first := self._waiting.get()) is not None:
            time.sleep(GATHER_SECONDS)
            together = [first]
            while not self._waiting.empty():
                entry = self._waiting.get()
                if entry is None:
                    self._waiting.put(None)
                    break
                together.append(entry)
            self._submit([request for request, _ in together], [submitted for _, submitted in together])

    def _submit(self, requests: list[bytes], submitted: list[Future[Job[Ended]]]) -> None:
        given = (self._surroundings, 3600 * self.hours)
        try:
            if len(requests) == 1:
                jobs = [self._submitter.submit(run_in_job, requests[0], *given)]
            else:
                with self._submitter.batch():
                    jobs = [self._submitter.submit(run_in_job, request, *given) for request in requests]
        except Exception as error:  # noqa: BLE001 - whatever it is, a slot waits for it
            for future in submitted:
                future.set_exception(InputError(f"executor: Slurm takes no job: {in_one_line(error)}"))
            return
        for future, job in zip(submitted, jobs, strict=True):
            future.set_result(job)


class _SlurmWorker:
    def __init__(self, slot: Slot, jobs: _Jobs, say: Say) -> None:
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
