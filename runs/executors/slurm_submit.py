"""Submits to Slurm: concurrent calls form one array, and temporarily rejected jobs are resubmitted."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import submitit
from submitit.core.core import Job

from naslab.errors import InputError
from naslab.runs.executors.base import Say
from naslab.runs.executors.host import Surroundings
from naslab.runs.executors.slurm_job import Ended, run_in_job
from naslab.runs.executors.slurm_watch import watch
from naslab.runs.faults import in_one_line

if TYPE_CHECKING:
    from naslab.runs.executors.options import Slurm

GATHER_SECONDS = 0.3
"""So long the first of several calls waits for others to stand in one array."""
BUSY_SECONDS = 30.0
"""After so long a job is submitted again that Slurm did not take for now."""
BUSY = re.compile(
    "(?i)socket timed out|unable to contact slurm|zero bytes were transmitted|temporarily|job submit limit|maxsubmit"
)
"""What sbatch says where it may take the same job later: its controller is busy, or enough of the user's jobs wait."""
OF_THE_CLUSTER = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})

Entry = tuple[bytes, Future[Job[Ended]]]
"""A call, and its job once there is one."""


class Jobs:
    """Takes calls, and submits them as jobs.

    Args:
        folder: for the jobs' own files; every machine sees it.

    Raises:
        InputError: no Slurm here.
    """

    def __init__(self, choice: Slurm, gpus: int, folder: Path, say: Say) -> None:
        _leave_the_own_job()
        self._submitter = _submitter(choice, gpus, folder)
        self._surroundings, self.hours, self._say = Surroundings.here(choice.environment), choice.hours, say
        self._waiting: queue.Queue[Entry | None] = queue.Queue()
        self._given_up, self._has_taken, self._has_told = threading.Event(), False, False
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

    def give_up(self) -> None:
        """Ask no more where Slurm takes no job."""
        self._given_up.set()

    def close(self) -> None:
        """Submit no more."""
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
            self._submit(together)

    def _submit(self, together: list[Entry]) -> None:
        """Submit them as one array; where Slurm does not take all of it, in parts and again."""
        while (jobs := self._jobs_of(together)) is None:
            if len(together) > 1:
                half = len(together) // 2
                self._submit(together[:half])
                together = together[half:]
            else:
                self._given_up.wait(BUSY_SECONDS)
        for (_, submitted), job in zip(together, jobs, strict=False):  # no jobs: refused
            submitted.set_result(job)

    def _jobs_of(self, together: list[Entry]) -> list[Job[Ended]] | None:
        """A job of each; none where they were refused for good, and None where it is worth asking again."""
        try:
            jobs = self._array([request for request, _ in together])
        except Exception as error:  # noqa: BLE001 - whatever it is, a slot waits for it
            # What was never taken may be what is asked for: more hours than anybody may have is a limit, too.
            hopeful = BUSY.search(str(error)) and not self._given_up.is_set()
            if hopeful and (self._has_taken or len(together) > 1):
                self._tell(f"Slurm takes no job for now, and is asked again: {in_one_line(error)}")
                return None
            for _, submitted in together:
                submitted.set_exception(InputError(f"executor: Slurm takes no job: {in_one_line(error)}"))
            return []
        watch(jobs)
        self._has_taken, self._has_told = True, False
        return jobs

    def _array(self, requests: list[bytes]) -> list[Job[Ended]]:
        given = (self._surroundings, 3600 * self.hours)
        if len(requests) == 1:
            return [self._submitter.submit(run_in_job, requests[0], *given)]
        with self._submitter.batch():
            return [self._submitter.submit(run_in_job, request, *given) for request in requests]

    def _tell(self, line: str) -> None:
        """Once, until Slurm takes jobs again."""
        if not self._has_told:
            self._has_told = True
            self._say(line)


def _leave_the_own_job() -> None:
    """Forget what Slurm says of a job that the driver runs in: sbatch would take it over, bound to those few cores."""
    for name in os.environ:
        if name.startswith("SLURM_") and name not in OF_THE_CLUSTER:
            del os.environ[name]


def _submitter(choice: Slurm, gpus: int, folder: Path) -> submitit.AutoExecutor:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # jobs are told of `environment`, and nobody else is
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
        "slurm_srun_args": [f"--cpus-per-task={choice.cpus}"],  # not inherited from sbatch since Slurm 22.05
        "slurm_additional_parameters": {"no_requeue": True, **choice.sbatch},
    }
    submitter.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
    return submitter
