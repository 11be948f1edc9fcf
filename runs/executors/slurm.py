"""Slurm jobs through submitit: each call is a job, and those that wait at the same time are one array.

Slurm and submitit send nothing back into the queue themselves: a job that is cut off is an attempt on record, and the
driver submits the next, which goes on from the checkpoint.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from naslab.errors import InputError
from naslab.runs.executors.base import NodeLost, Say, Slot, SlotExecutor, WorkerDied
from naslab.runs.executors.host import Host, Surroundings
from naslab.runs.executors.process import pack, unpack
from naslab.runs.faults import in_one_line

if TYPE_CHECKING:
    from naslab.runs.executors.options import Slurm

try:
    import submitit
    from submitit.core.core import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError
except ImportError:
    raise InputError("executor: submitit is not installed; pip install 'naslab[slurm]'") from None

POLL_SECONDS = 0.2
"""How often a job's answer is looked for, which is a file."""
GATHER_SECONDS = 0.3
"""So long the first of several calls waits for others to stand in one array."""
QUEUE_SECONDS = 10.0
"""After so long in the queue the user is told."""
NOTICE_SECONDS = 120.0
"""So long before its time limit, at most, a job is warned or ended for it."""
Fate = Literal["answer", "died", "taken", "time"]


class SlurmExecutor(SlotExecutor):
    """As many jobs at once as there are slots.

    Args:
        folder: for the jobs' own files; every machine sees it.

    Raises:
        InputError: no Slurm here.
    """

    def __init__(self, choice: Slurm, slots: int, gpus: float, folder: Path, say: Say) -> None:
        slot = Slot("cuda:0" if gpus else "cpu", gpus or 1.0, choice.cpus, processes=choice.processes)
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


class _Ended(NamedTuple):
    """What a job says of its call: the answer's bytes, or why there is none."""

    fate: Fate
    answer: bytes = b""
    why: str = ""


def run_in_job(request: bytes, surroundings: Surroundings, seconds: float) -> _Ended:
    """Main of a job: one call in a worker process, whose end by the scheduler is told from one of its own."""
    began, warned = time.monotonic(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: warned.set())
    host = Host(surroundings)
    try:
        return _Ended("answer", host.call(request))
    except WorkerDied as death:
        if not warned.is_set():
            return _Ended("died", why=str(death))
        late = time.monotonic() - began > seconds - NOTICE_SECONDS
        return _Ended("time") if late else _Ended("taken", why="Slurm took its job away")
    finally:
        host.close()


class _Jobs:
    """Submits calls, and several that come at once as one array."""

    def __init__(self, submitter: submitit.AutoExecutor, surroundings: Surroundings, hours: float) -> None:
        self._submitter, self._surroundings, self.hours = submitter, surroundings, hours
        self._waiting: queue.Queue[tuple[bytes, Future[Job[_Ended]]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._submit_arrays, daemon=True)
        self._thread.start()

    def submit(self, request: bytes) -> Job[_Ended]:
        """The job that runs it.

        Raises:
            InputError: Slurm does not take it.
        """
        submitted: Future[Job[_Ended]] = Future()
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

    def _submit(self, requests: list[bytes], submitted: list[Future[Job[_Ended]]]) -> None:
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
        self._job: Job[_Ended] | None = None
        self._killed = False

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        job = self._jobs.submit(pack(fn, args, kwargs))
        self._job = job
        if self._killed:  # while it was submitted
            job.cancel(check=False)
        self._await(job)
        ended = self._end_of(job)
        self._job = None
        if ended.fate == "answer":
            _forget(job)
            return unpack(ended.answer)
        raise self._death(ended)

    def kill(self) -> None:
        self._killed = True
        if (job := self._job) is not None:
            job.cancel(check=False)

    def renew(self) -> None:
        self._killed = False

    def close(self) -> None:
        return

    def _await(self, job: Job[_Ended]) -> None:
        began, told = time.monotonic(), False
        while not job.done():
            time.sleep(POLL_SECONDS)
            if not told and time.monotonic() - began > QUEUE_SECONDS:
                told = True
                if job.state == "PENDING":
                    self._say(f"Slurm job {job.job_id} waits in the queue")

    def _end_of(self, job: Job[_Ended]) -> _Ended:
        try:
            return job.result()
        except (UncompletedJobError, FailedJobError) as error:
            state = job.state
            if state.startswith(("TIMEOUT", "DEADLINE")):
                return _Ended("time")
            if state.startswith("OUT_OF_ME"):
                return _Ended("died", why="its Slurm job ran out of memory (executor.memory_gb)")
            return _Ended("taken", why=f"its Slurm job ended as {state}: {in_one_line(error)}")

    def _death(self, ended: _Ended) -> WorkerDied:
        if self._killed:
            return WorkerDied("its job was cancelled")
        if ended.fate == "time":
            return WorkerDied(f"its Slurm job came to its time limit (executor.hours: {self._jobs.hours:g})")
        return NodeLost(ended.why) if ended.fate == "taken" else WorkerDied(ended.why)


def _forget(job: Job[_Ended]) -> None:
    """Remove the files of a job that is done with."""
    paths = job.paths
    for path in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr):
        path.unlink(missing_ok=True)
