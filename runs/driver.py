"""The driver: asks the plan what is next, gives it to a worker and records the result. Only it writes."""

from __future__ import annotations

import queue
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from naslab.errors import InputError
from naslab.runs.attempt import begin_attempt, end_attempt
from naslab.runs.events import Follower
from naslab.runs.executors import NodeLost, SlotExecutor, WorkerDied
from naslab.runs.executors.choose import Workers, make_executor
from naslab.runs.facts import Facts, find_facts, record_facts
from naslab.runs.interrupts import HeldBack, termination_interrupts
from naslab.runs.judge import Judge, Judgement, judged_arm
from naslab.runs.lease import Lease
from naslab.runs.ledger import Ledger
from naslab.runs.limits import FailureStreak, deaths_without_progress, forgivable, overdue, seconds_left
from naslab.runs.log import log_path
from naslab.runs.loggers import Loggers, make_loggers
from naslab.runs.past import Past
from naslab.runs.patience import Patience, StorageAway, reconnect_seconds
from naslab.runs.plan import Plan, plan_next
from naslab.runs.progress import Progress
from naslab.runs.reuse import Circumstances, Reusable, reusable
from naslab.runs.trial import Cause, Job, RungRecord, State, Trial
from naslab.runs.verdict import STOP, VERDICT, ask_to_stop, give_verdict
from naslab.runs.warm_start import Knowledge, warm_starts
from naslab.runs.worker import run_job

POLL_SECONDS = 0.2
"""How often running trials' trails are read; results arrive by themselves, at once."""
JUDGING_SECONDS = 0.02
"""The same while a trial that runs may be waiting at a rung."""


def run_study(ledger: Ledger, slots: int, progress: Progress, retry_failed: bool = False) -> list[Trial]:
    """Run what the study still needs, or what its budget allows, and return all its trials.

    Interrupted, by Ctrl-C or SIGTERM, it records the running trials as interrupted, with their seconds, and raises
    KeyboardInterrupt; the same call goes on from there.

    Args:
        ledger: of `Ledger.start`.
        slots: trials that run at once.
        progress: is told of every end.
        retry_failed: try again what failed, or ran out of time, in an earlier run.

    Raises:
        InputError: data, storage or disk that only the user can mend, or another driver on this study.
        NaslabError: so many equal failures in a row that the rest would fail, too; another driver took over.
    """
    if type(slots) is not int or slots < 1:
        raise InputError(f"slots: {slots!r}: how many trials run at once, an integer from 1")
    ledger.patience = Patience(reconnect_seconds(), progress.say)
    study = ledger.study
    workers = Workers(lambda: make_executor(study.executor, slots, study.device, ledger.files, progress.say))
    with _disk_errors(ledger.files), termination_interrupts():
        try:
            facts = find_facts(ledger, slots, workers, progress.say)
            made = make_loggers(study.loggers, study.name, ledger.files)
            with closing(Loggers(made, progress.say)) as loggers, ledger.hold(slots) as lease:
                return _Driver(ledger, lease, facts, slots, workers, progress, retry_failed, loggers).run()
        finally:
            workers.shutdown(cancel=True)


class _Running:
    """One trial in a worker."""

    def __init__(self, trial_id: int, begun: Trial, folder: Path) -> None:
        self.trial_id, self.begun, self.job, self.folder = trial_id, begun, begun.job, folder
        self.follower = Follower(folder)
        self.is_overdue = False
        self._began: float | None = None

    def seconds_held(self) -> float:
        """How long it has held its slot; while the machine slept it did not."""
        if self._began is None and self.follower.began is not None:
            self._began = time.monotonic()
        return 0.0 if self._began is None else time.monotonic() - self._began


class _Driver:
    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        facts: Facts,
        slots: int,
        workers: Workers,
        progress: Progress,
        retry_failed: bool,
        loggers: Loggers,
    ) -> None:
        self.ledger, self.lease, self.facts, self.slots, self.progress = ledger, lease, facts, slots, progress
        self.study, self.files, self.workers, self.loggers = ledger.study, ledger.files, workers, loggers
        self.document = self.study.document()
        self.running: dict[Future[Any], _Running] = {}
        self.done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.streak = FailureStreak(self.study.name, self.study.limits.failures_in_a_row)
        trials = ledger.trials()
        forgiven = forgivable(trials) if retry_failed else frozenset()
        self.past = Past(self.study, self.facts.metric, trials, forgiven)
        self.judge = Judge(self.study, self.facts.max_epochs)
        self.warm: Knowledge = {}
        self.reusable = Reusable(self.study)
        self.followed = 0.0

    def run(self) -> list[Trial]:
        self._adopt()
        self.judge = self._judge_of_past()
        self._settle()
        self.warm = warm_starts(self.ledger, self.facts.metric)
        if not self._has_work():
            return self._all_trials()
        self.ledger.name_metric(self.facts.metric)
        record_facts(self.ledger, self.facts)
        self._look_for_equals()
        with HeldBack() as interruptions:
            self.ledger.patience.check = interruptions.check
            try:
                executor = self.workers.executor()
                with self.progress.watching(self.study, self.facts.controls, self.facts.metric, self.slots):
                    self._loop(executor, interruptions)
            except BaseException:
                self.workers.shutdown(cancel=True)
                self.ledger.patience.end()
                with suppress(StorageAway):  # the next driver settles it from the trials' own trails
                    self._leave()
                raise
            self.workers.shutdown(cancel=False)
            interruptions.check()
        return self._all_trials()

    def _all_trials(self) -> list[Trial]:
        if self._plan().state == "done":
            self.ledger.mark_done()
        return self.ledger.trials()

    def _look_for_equals(self) -> None:
        """What the study may take over from others, said before it begins."""
        here = Circumstances(self.facts.device, self.facts.threads, self.facts.made_with)
        self.reusable, lines = reusable(self.ledger.url, self.study, here)
        for line in lines:
            self.progress.say(line)

    def _adopt(self) -> None:
        """Settle what a driver that died left running: an end that was told is recorded, the rest is interrupted."""
        for trial_id, trial, outcome in self.ledger.running():
            follower = Follower(self.files / "trials" / trial.job.key)
            follower.read()
            if follower.began is not None and follower.last_seen is not None:
                self.lease.cover(follower.began, follower.last_seen)
            if outcome is not None:
                self._record(trial_id, trial.job, outcome["state"], outcome)
            else:
                self._end(trial_id, trial.job, follower, "its driver died", "driver")

    def _leave(self) -> None:
        """Settle what runs, whose workers are gone; a lease that was lost forbids it, and another driver does it."""
        self.lease.check()
        for entry in self.running.values():
            self._end(entry.trial_id, entry.job, entry.follower, "interrupted", "driver")

    def _has_work(self) -> bool:
        return self._plan().state != "done" and self._seconds_left() > 0

    def _plan(self) -> Plan:
        return plan_next(self.past, self.facts.controls, self.warm)

    def _seconds_left(self) -> float:
        return seconds_left(self.study.limits, self.past.seconds, [e.follower for e in self.running.values()])

    def _loop(self, executor: SlotExecutor, interruptions: HeldBack) -> None:
        while True:
            interruptions.check()
            self.lease.check_heart()
            self.progress.update(self.ledger.trials, [(e.job, e.follower) for e in self.running.values()])
            spent = self._seconds_left() <= 0
            alone = any(self._needs_room(entry.job) for entry in self.running.values())
            while len(self.running) < self.slots and not spent and not alone:
                interruptions.check()
                plan = self._plan()
                if plan.state == "done":
                    return
                if plan.job is None or (self.running and self._needs_room(plan.job)):
                    break
                self._start(executor, plan.job)
                alone = self._needs_room(plan.job)
            if not self.running:
                return
            with suppress(queue.Empty):
                self._finish(self.done.get(timeout=self._poll_seconds()))
            if time.monotonic() - self.followed >= self._poll_seconds():
                self._follow(executor)

    def _poll_seconds(self) -> float:
        """Until the next look; not later than when the budget is spent, so that every trial ends at its next rung."""
        judging = any(judged_arm(self.study, entry.job) for entry in self.running.values())
        pause = JUDGING_SECONDS if judging else POLL_SECONDS
        left = self._seconds_left() / max(sum(entry.follower.share for entry in self.running.values()), 1e-9)
        return min(pause, left) if left > 0 else pause

    def _start(self, executor: SlotExecutor, job: Job) -> None:
        folder = (self.files / "trials" / job.key).absolute()
        # Whatever an earlier attempt left goes before this one is on record: it must not be taken for this one's.
        end_attempt(folder)
        for name in (STOP, VERDICT):
            (folder / name).unlink(missing_ok=True)
        trial_id, number = self.ledger.begin(job)
        begun = Trial(number, job, "running")
        self.past.take(begun)
        self.loggers.began(begun)
        if earlier := self.judge.of(job.key):
            self.ledger.judge(trial_id, earlier)
        if any(judgement.pruned for judgement in earlier):  # interrupted before it knew
            rungs = [asdict(rung) for rung in self._earlier_rungs(job)]
            self._record(trial_id, job, "pruned", {"rungs": rungs, "result": {"metric": self.facts.metric}})
            return
        if (source := self.reusable.find(job)) is not None:
            source.copy_weights(folder)
            self._record(trial_id, job, "complete", source.facts())
            return
        entry = _Running(trial_id, begun, folder)
        log = log_path(self.files.absolute(), number)
        awaited = self.judge.is_awaited(job.key)
        given = {"awaited": awaited, "attempt": begin_attempt(folder)}
        future = executor.submit(run_job, self.document, job, folder, log, **given)
        self.running[future] = entry
        future.add_done_callback(self.done.put)

    def _finish(self, future: Future[Any]) -> None:
        entry = self.running[future]
        self._take_rungs()
        # It runs no more before its end is recorded: an interruption in between finds it done, or leaves it to the next
        # driver. An error that only the user can mend leaves it among what runs, to be settled with the rest.
        try:
            outcome, rungs = future.result()
        except WorkerDied as death:
            del self.running[future]
            trial = self._died(entry, death)
        else:
            del self.running[future]
            state: State = "failed" if outcome.cause == "memory" and self._needs_room(entry.job) else outcome.state
            told = rungs or (self._earlier_rungs(entry.job) if state == "pruned" else [])
            facts = {**asdict(outcome), "state": state, "rungs": [asdict(rung) for rung in told]}
            trial = self._record(entry.trial_id, entry.job, state, facts)
        self._settle()
        self.streak.note(trial)

    def _needs_room(self, job: Job) -> bool:
        """Whether the job is, or was, to run alone, because an earlier attempt ran out of memory."""
        return job.key in self.past.out_of_memory

    def _died(self, entry: _Running, death: WorkerDied) -> Trial:
        """Record a trial whose worker is gone: out of time, killed from outside, or by its own doing."""
        if entry.is_overdue:
            limit = f"it held its slot for longer than limits.trial_hours: {self.study.limits.trial_hours:g}"
            return self._end(entry.trial_id, entry.job, entry.follower, limit, None, "timed_out")
        if isinstance(death, NodeLost):
            return self._end(entry.trial_id, entry.job, entry.follower, str(death), "node")
        attempts = [t for t in self.ledger.trials() if t.job.key == entry.job.key and t.state != "running"]
        deaths = deaths_without_progress(attempts, entry.follower.rungs)
        if deaths < self.study.limits.attempts:
            return self._end(entry.trial_id, entry.job, entry.follower, str(death), "worker")
        why = f"{death}, {deaths} times in a row without progress; given up"
        return self._end(entry.trial_id, entry.job, entry.follower, why, "worker", "failed")

    def _end(
        self,
        trial_id: int,
        job: Job,
        follower: Follower,
        why: str,
        cause: Cause | None,
        state: State = "interrupted",
    ) -> Trial:
        """Record a trial whose process is gone: the end that it told, or `state`, charged to its last sign of life."""
        seconds = follower.seconds()
        facts = follower.outcome or {
            "state": state,
            "seconds": seconds,
            "core_seconds": follower.core_seconds(),
            "threads": follower.threads,
            "device_share": follower.share,
            "device": follower.device,
            "error": why,
            "cause": cause,
            "fault": None if state == "interrupted" else state,
        }
        facts = {**facts, "rungs": [asdict(rung) for rung in follower.rungs]}
        trial = self._record(trial_id, job, facts["state"], facts)
        end_attempt(self.files / "trials" / job.key)  # what may still run, or wait in a queue, is charged to nobody
        return trial

    def _record(self, trial_id: int, job: Job, state: State, facts: Mapping[str, Any]) -> Trial:
        trial = self.ledger.finish(trial_id, state, facts)
        self.past.take(trial)
        self.loggers.ended(trial)
        metric = self.facts.metric
        value = trial.scores.get(metric, trial.scores.get(f"validation_{metric}"))
        self.progress.finished(job, state, value, trial.device_seconds, trial.error)
        if state == "pruned" or (state == "complete" and job.role not in ("reference", "final")):
            shutil.rmtree(self.files / "trials" / job.key, ignore_errors=True)
        return trial

    def _follow(self, executor: SlotExecutor) -> None:
        self.followed = time.monotonic()
        self._stop_if_spent()
        self._take_rungs()
        for future, entry in self.running.items():
            if overdue(self.study.limits, entry.seconds_held()):
                entry.is_overdue = True
                executor.kill(future)

    def _stop_if_spent(self) -> None:
        """Every trial ends at its next rung once the budget is spent."""
        if self._seconds_left() <= 0:
            for entry in self.running.values():
                ask_to_stop(entry.folder, "budget")

    def _take_rungs(self) -> None:
        """Record and judge what is new of every running trial, in the order in which it was reported."""
        news = [
            ((entry.follower.began or 0.0) + rung.device_seconds / entry.follower.share, entry.trial_id, entry, rung)
            for entry in self.running.values()
            for rung in entry.follower.read()
        ]
        for _, _, entry, rung in sorted(news, key=lambda one: one[:2]):
            self.loggers.rung(entry.begun, rung)
            self._stop_if_spent()  # a slow storage, or many rungs, must not put it off
            if (score := rung.scores.get(self.facts.metric)) is not None:
                self.ledger.rung(entry.trial_id, rung.epoch, score)
                self._report(entry, rung.epoch, score)
        if news:
            self._settle()

    def _report(self, entry: _Running, epoch: int, score: float) -> None:
        arm = judged_arm(self.study, entry.job)
        if arm is None:
            return
        made = self.judge.report(entry.job, epoch, self.study.objective.sign * score)
        if made is not None:
            self._tell(entry, made)
        elif arm.order == "reports":
            self._settle()

    def _tell(self, entry: _Running, judgement: Judgement) -> None:
        self.ledger.judge(entry.trial_id, self.judge.of(judgement.key))
        give_verdict(entry.folder, judgement.epoch, judgement.pruned)

    def _settle(self) -> None:
        """Judge what can be judged, and tell the workers that wait for it."""
        for judgement in self.judge.settle(self._open_keys()):
            for entry in self.running.values():
                if entry.job.key == judgement.key:
                    self._tell(entry, judgement)

    def _open_keys(self) -> set[str]:
        """Proposals that may still report a rung; not one that needs room, which begins when nobody else runs."""
        waiting = [t for arm in self.study.arms for t in self.past.to_repeat(arm.name, "proposal")]
        found = {t.job.key for t in (*self.past.running.values(), *waiting) if t.job.role == "proposal"}
        return found - self.past.out_of_memory

    def _judge_of_past(self) -> Judge:
        """A judge that knows every rung on record; those that nobody judged in time are judged next."""
        judge = Judge(self.study, self.facts.max_epochs, self.ledger.judgements())
        for trial in self.ledger.trials():
            if judged_arm(self.study, trial.job) is not None:
                for rung in trial.rungs:
                    if self.facts.metric in rung.scores:
                        judge.report(trial.job, rung.epoch, self.study.objective.sign * rung.scores[self.facts.metric])
        return judge

    def _earlier_rungs(self, job: Job) -> list[RungRecord]:
        """What earlier attempts at the job reported, by epoch."""
        found = {rung.epoch: rung for t in self.ledger.trials() if t.job.key == job.key for rung in t.rungs}
        return [found[epoch] for epoch in sorted(found)]


@contextmanager
def _disk_errors(files: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission or a file in a folder's place into one line."""
    try:
        yield
    except OSError as error:
        what = error.strerror or " ".join(str(error).split())
        raise InputError(f"{error.filename or files}: cannot be used: {what}; the same command resumes") from None
