"""The driver: asks the plan what is next, hands it to a worker, writes down what came of it. It alone writes."""

from __future__ import annotations

import fcntl
import os
import queue
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from naslab.efficiency.device import device_name, resolve_device
from naslab.errors import InputError
from naslab.nas.arms import Sampled
from naslab.nas.pruning import hyperband_bracket, should_prune
from naslab.runs.events import Follower
from naslab.runs.executors import LocalExecutor, WorkerDied
from naslab.runs.ledger import Ledger
from naslab.runs.plan import next_job, proposal_index
from naslab.runs.progress import Progress
from naslab.runs.trial import Job, Outcome, RungRecord, Trial
from naslab.runs.worker import STOP, run_job

POLL_SECONDS = 0.2
"""How often running trials' trails are read; results arrive by themselves, at once."""
SESSION_SECONDS = 2.0


def run_study(ledger: Ledger, slots: int, progress: Progress) -> list[Trial]:
    """Run what the study still needs and return all its trials.

    Interrupted, it records the running trials as killed, with their seconds, and raises KeyboardInterrupt; the same
    call goes on from there.

    Raises:
        InputError: data, storage or disk that only the user can mend, or another driver on this study.
    """
    with _only_driver(ledger.files):
        return _Driver(ledger, slots, progress).run()


class _Running:
    """One trial in a worker."""

    def __init__(self, trial_id: int, job: Job, folder: Path, future: Future[Any]) -> None:
        self.trial_id, self.job, self.folder, self.future = trial_id, job, folder, future
        self.follower = Follower(folder)


class _Driver:
    def __init__(self, ledger: Ledger, slots: int, progress: Progress) -> None:
        self.ledger, self.slots, self.progress = ledger, slots, progress
        self.study = ledger.study
        self.device = resolve_device(self.study.device)
        self.task = self.study.make_task(torch.device("cpu"))
        self.controls = self.task.controls()
        self.document = self.study.document()
        self.threads = max(1, (os.cpu_count() or 1) // slots)
        self.running: dict[Future[Any], _Running] = {}
        self.done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.sessions = ledger.sessions()

    def run(self) -> list[Trial]:
        for trial_id, trial in self.ledger.running():
            self._kill(trial_id, trial.job, "its driver died")
        if next_job(self.study, self.controls, self.task.metric, self.ledger.trials()).state == "done":
            return self.ledger.trials()
        self.ledger.name_metric(self.task.metric)
        self.sessions.append({"started": time.time(), "seen": time.time(), "slots": float(self.slots)})
        executor = LocalExecutor(self.slots, self.device)
        try:
            with self.progress.watching(self.study, self.controls, self.slots):
                self._loop(executor)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            for entry in self.running.values():
                self._kill(entry.trial_id, entry.job, "interrupted")
            self._seen(force=True)
            raise
        executor.shutdown()
        self._seen(force=True)
        return self.ledger.trials()

    def _loop(self, executor: LocalExecutor) -> None:
        # Reading all trials costs as much as a step of a small model; only this driver changes them.
        trials = self.ledger.trials()
        while True:
            self.progress.update(trials, [(e.job, e.follower) for e in self.running.values()])
            while len(self.running) < self.slots:
                plan = next_job(self.study, self.controls, self.task.metric, trials)
                if plan.state == "done":
                    return
                if plan.job is None:
                    break
                self._start(executor, plan.job)
                trials = self.ledger.trials()
            try:
                self._finish(self.done.get(timeout=POLL_SECONDS))
                trials = self.ledger.trials()
            except queue.Empty:
                self._follow()
            self._seen()

    def _start(self, executor: LocalExecutor, job: Job) -> None:
        folder = self.ledger.files / "trials" / job.key
        (folder / STOP).unlink(missing_ok=True)
        trial_id = self.ledger.begin(job)
        # A trail left by an earlier attempt at this job must not be taken for this one's.
        (folder / "events.jsonl").unlink(missing_ok=True)
        future = executor.submit(run_job, self.document, job, folder, threads=self.threads)
        self.running[future] = _Running(trial_id, job, folder, future)
        future.add_done_callback(self.done.put)

    def _finish(self, future: Future[Any]) -> None:
        entry = self.running[future]
        self._record_rungs(entry)
        try:
            outcome, rungs = future.result()
        except WorkerDied as death:
            self._kill(entry.trial_id, entry.job, str(death))
        else:
            self._record(entry, outcome, rungs)
            if outcome.state == "pruned" or (
                entry.job.role not in ("reference", "final") and outcome.state != "failed"
            ):
                shutil.rmtree(entry.folder, ignore_errors=True)
        del self.running[future]

    def _record(self, entry: _Running, outcome: Outcome, rungs: list[RungRecord]) -> None:
        metric = self.task.metric
        value = outcome.scores.get(metric, outcome.scores.get(f"validation_{metric}"))
        facts = {k: v for k, v in asdict(outcome).items() if k != "state"}
        facts["rungs"] = [asdict(rung) for rung in rungs]
        self.ledger.finish(entry.trial_id, outcome.state, facts)
        self.progress.finished(entry.job, outcome.state, value, sum(outcome.seconds.values()), outcome.error)

    def _kill(self, trial_id: int, job: Job, why: str) -> None:
        """Record a trial whose process is gone, charged up to its last sign of life."""
        follower = Follower(self.ledger.files / "trials" / job.key)
        seconds = follower.seconds()
        facts = {
            "seconds": seconds,
            "core_seconds": follower.core_seconds(),
            "threads": self.threads,
            "device": device_name(self.device),
            "rungs": [asdict(rung) for rung in follower.rungs],
            "error": why,
        }
        self.ledger.finish(trial_id, "killed", facts)
        self.progress.finished(job, "killed", None, sum(seconds.values()), why)

    def _follow(self) -> None:
        for entry in self.running.values():
            if self._record_rungs(entry) and self._falls_behind(entry):
                (entry.folder / STOP).touch()

    def _record_rungs(self, entry: _Running) -> bool:
        new = entry.follower.read()
        for rung in new:
            if self.task.metric in rung.scores:
                self.ledger.rung(entry.trial_id, rung.epoch, rung.scores[self.task.metric])
        return bool(new)

    def _falls_behind(self, entry: _Running) -> bool:
        arm = next((arm for arm in self.study.arms if arm.name == entry.job.arm), None)
        if not isinstance(arm, Sampled) or entry.job.role != "proposal" or arm.pruner == "none":
            return False
        metric = self.task.metric

        def scores(rungs: Any) -> dict[int, float]:
            return {r.epoch: r.scores[metric] for r in rungs if metric in r.scores}

        def bracket(job: Job) -> int:
            return hyperband_bracket(proposal_index(job), self.task.max_epochs) if arm.pruner == "hyperband" else 0

        finished = [
            t for t in self.ledger.trials()
            if t.job.arm == arm.name and t.job.role == "proposal" and t.state in ("complete", "pruned")
        ]  # fmt: skip
        own = bracket(entry.job)
        others = [scores(t.rungs) for t in finished if bracket(t.job) == own]
        return should_prune(arm.pruner, scores(entry.follower.rungs), others, own)

    def _seen(self, force: bool = False) -> None:
        now = time.time()
        if force or now - self.sessions[-1]["seen"] > SESSION_SECONDS:
            self.sessions[-1]["seen"] = now
            self.ledger.record_sessions(self.sessions)


@contextmanager
def _only_driver(folder: Path) -> Iterator[None]:
    """A lock that death releases: two drivers of one study would charge and repeat each other's trials."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another `naslab run` works on this study; wait for it or stop it") from None
        yield
