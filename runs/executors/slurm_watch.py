"""A Slurm job from the driver's side: whether it is over, how it ended, and how to cancel it.

Submitit's own `done` and `result` rest on its idea of what goes back into the queue; here nothing does (slurm.py), and
they would wait for a pre-empted job for ever, and take a suspended one for ended.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import submitit
from submitit.core.core import Job
from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import SlurmInfoWatcher

from naslab.runs.executors.slurm_job import Ended
from naslab.runs.faults import in_one_line

OUT_OF_TIME = ("TIMEOUT", "DEADLINE")
OWN_END = ("COMPLETED", "FAILED", "OUT_OF_ME", "FINISHED")
"""Of a job that ended by its own doing; `FINISHED` and `INTERRUPTED` are words of submitit's local cluster."""
TAKEN = ("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED", "INTERRUPTED")
IN_THE_QUEUE = ("PENDING", "RUNNING")
HEADER = "JobID|State|NodeList"
"""The first line of what `sacct` is asked for; a notice of the site may stand above it."""
SILENCE_SECONDS = 60.0
"""So often the queue itself is asked for a job that `sacct` does not know, or in a state that says little; some
clusters keep no accounts."""
TRUST_SECONDS = 3600.0
"""And so often where `sacct` says that it waits or runs: the end of a job may never reach the accounts."""
ANSWER_SECONDS = 60.0
"""So long a command of Slurm's may take; a controller or a disk that hangs would hold every slot."""
FILE_SECONDS = 15.0
"""So long the answer of a job that is over may take to come through a shared file system."""
REFRESH_SECONDS = 1.0
"""So often, at most, `sacct` is asked before it is due, as jobs were cancelled."""


class _Watcher(SlurmInfoWatcher):
    """Submitit's own takes a suspended job for ended, waits for `sacct` for ever, and goes on saying what it said last
    where it fails.
    """

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether the state is one of those in which a job is over."""
        return _ends(self.get_state(job_id, mode=mode))

    def update(self) -> None:
        """Ask `sacct`; where it gives no answer, nothing is known of jobs that were not over."""
        command = self._make_command()
        if command is None:
            return
        asked = _ask(*command)
        if asked is not None and asked.returncode == 0:
            self._info_dict.update(self.read_info("".join(asked.stdout.partition(HEADER)[1:])))
        else:
            self._info_dict = {job: info for job, info in self._info_dict.items() if _ends(info.get("State", ""))}
        self._last_status_check = time.time()
        self._finished |= {job for job in self._registered - self._finished if self.is_done(job, mode="cache")}


def _ends(state: str) -> bool:
    return state.startswith((*OUT_OF_TIME, *OWN_END, *TAKEN))


_WATCHER = _Watcher(delay_s=600)


def watch(jobs: Sequence[Job[Ended]]) -> None:
    """Have all of them asked about, together from the first time on."""
    for job in jobs:
        if not isinstance(job, submitit.LocalJob):
            job.watcher = _WATCHER
            _WATCHER.register_job(job.job_id)


class _Accounts:
    """What `sacct` says, which is asked once for all jobs; submitit's threads would all ask while the first waits."""

    def __init__(self) -> None:
        self._lock, self._refreshed = threading.Lock(), -math.inf

    def state(self, job: Job[Ended]) -> str:
        """Of a job, as it was said last; who comes while another asks does not wait for what is said now."""
        if not self._lock.acquire(blocking=False):
            return _WATCHER.get_state(job.job_id, mode="cache")
        try:
            return job.state
        finally:
            self._lock.release()

    def refresh(self, job: Job[Ended]) -> None:
        """Ask before it is due."""
        with self._lock:
            if time.monotonic() - self._refreshed >= REFRESH_SECONDS:
                job.get_info(mode="force")
                self._refreshed = time.monotonic()


_ACCOUNTS = _Accounts()


class WatchedJob:
    """One submitted job."""

    def __init__(self, job: Job[Ended]) -> None:
        self._job = job
        self._is_local = isinstance(job, submitit.LocalJob)
        self._asked_queue = time.monotonic()

    @property
    def number(self) -> str:
        """Slurm's name for it."""
        return str(self._job.job_id)

    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self._state().startswith("PENDING")

    def is_over(self) -> bool:
        """Whether nothing more will come of it than there is."""
        if self._is_local:
            return self._job.done()
        if self._has_answer() or _ends(state := self._state()):
            return True
        now = time.monotonic()
        if now - self._asked_queue > (TRUST_SECONDS if state.startswith(IN_THE_QUEUE) else SILENCE_SECONDS):
            self._asked_queue = now
            return _has_left_the_queue(self.number)
        return False

    def cancel(self) -> None:
        """End it; again, if it has not ended, as the word may be lost."""
        if self._is_local:
            # Its controller passes SIGTERM on. SIGINT, which submitit sends, is ignored in the background of a shell.
            with suppress(ProcessLookupError):
                os.kill(int(self.number), signal.SIGTERM)
            return
        _ask("scancel", self.number)
        _ACCOUNTS.refresh(self._job)

    def end(self, was_cancelled: bool) -> Ended:
        """What became of it, when it is over."""
        deadline = time.monotonic() + (0 if self._is_local or was_cancelled else FILE_SECONDS)
        while not self._has_answer():
            if time.monotonic() >= deadline:
                return self._end_without_answer()
            time.sleep(0.2)
        try:
            return self._job.result()
        except FailedJobError as error:
            return Ended("died", why=f"its Slurm job failed: {_last_line_of_trace(error)}")
        except Exception as error:  # noqa: BLE001 - whatever unpickling a damaged file raises
            return Ended("died", why=f"the answer of its Slurm job cannot be read: {in_one_line(error)}")

    def forget(self) -> None:
        """Remove its files."""
        paths = self._job.paths
        for path in (paths.submitted_pickle, paths.result_pickle, paths.stdout, paths.stderr):
            path.unlink(missing_ok=True)

    def _state(self) -> str:
        return self._job.state if self._is_local else _ACCOUNTS.state(self._job)

    def _has_answer(self) -> bool:
        path = self._job.paths.result_pickle
        with suppress(OSError):  # makes a network file system look again
            path.parent.chmod(path.parent.stat().st_mode)
        return path.exists()

    def _end_without_answer(self) -> Ended:
        state = self._state()
        if not self._is_local and not _ends(state):  # by the queue it is over, so there is news
            _ACCOUNTS.refresh(self._job)
            state = self._state()
        if state.startswith(OUT_OF_TIME):
            return Ended("time")
        if state.startswith("OUT_OF_ME"):
            return Ended("died", why="its Slurm job ran out of memory (executor.memory_gb)")
        if state.startswith(TAKEN):
            return Ended("taken", why=f"its Slurm job ended as {state}")
        last = "".join(f": {line}" for line in (self._job.stderr() or "").strip().splitlines()[-1:])
        how = f"ended as {state}" if self._is_local or _ends(state) else f"left the queue ({state} by sacct)"
        return Ended("died", why=f"its Slurm job {how}, without an answer{last}")


def _has_left_the_queue(number: str) -> bool:
    asked = _ask("squeue", "-h", "-j", number, "-o", "%T")
    if asked is None:
        return False
    return not asked.stdout.strip() if asked.returncode == 0 else "Invalid job id" in asked.stderr


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    """What a command of Slurm's says; None where there is no such command, or no answer in time."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line_of_trace(error: FailedJobError) -> str:
    """Of submitit's message, which has the trace between two lines of hyphens."""
    trace = str(error).split("-" * 22)[1:2]
    lines = "".join(trace).strip().splitlines()
    return lines[-1] if lines else in_one_line(error)
