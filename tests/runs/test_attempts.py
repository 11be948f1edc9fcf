"""One attempt at a trial at a time, whatever a driver that died has left in a queue or running."""

import threading
from collections import Counter
from functools import partial

import pytest
from calls import wait_until
from inline import TOY, InlineExecutor, run_here
from rich.console import Console

from naslab.runs import attempt as attempts
from naslab.runs.attempt import begin_attempt, end_attempt
from naslab.runs.driver import run_study
from naslab.runs.events import Follower
from naslab.runs.executors import LocalExecutor, Slot, WorkerDied
from naslab.runs.ledger import Ledger
from naslab.runs.progress import Progress
from naslab.runs.study import parse_study
from naslab.runs.trial import Job
from naslab.runs.worker import run_job

LONG = 240


def call(folder, **task):
    """A call of `run_job`, but for the attempt."""
    study = parse_study({**TOY, "arms": [], "task": {"epochs": 2, "trouble_seed": 0, **task}}, "test")
    job = Job("reference/x/seed0", "reference", "reference", 0, study.search_space.reference)
    return partial(run_job, study.document(), job, folder, folder.with_suffix(".log"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("over", [begin_attempt, end_attempt], ids=["replaced", "ended"])
def test_a_worker_whose_attempt_is_over_leaves_the_folder_alone(over, processes, tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "LATE_SECONDS", 0.2)
    folder = tmp_path / "job"
    first = begin_attempt(folder)
    over(folder)
    before = contents(folder)
    with pytest.raises(WorkerDied, match="its attempt at the trial is over"):
        call(folder)(slot=Slot("cpu", threads=1, processes=processes), attempt=first)
    assert contents(folder) == before


def test_the_last_attempt_runs_and_its_trail_is_its_own(tmp_path):
    folder = tmp_path / "job"
    begin_attempt(folder)
    outcome, rungs = call(folder)(slot=Slot("cpu", threads=1), attempt=begin_attempt(folder))
    follower = Follower(folder)
    assert follower.read() == rungs
    assert len(rungs) == 2
    assert outcome.state == follower.outcome["state"] == "complete"


def test_a_trail_that_a_network_file_system_shows_late_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "LATE_SECONDS", LONG)
    folder = tmp_path / "job"
    second = begin_attempt(folder)
    there = (folder / attempts.TRAIL).read_bytes()
    begin_attempt(folder)  # stands for what was there before
    late = threading.Timer(0.5, (folder / attempts.TRAIL).write_bytes, [there])
    late.start()
    outcome, _ = call(folder)(slot=Slot("cpu", threads=1), attempt=second)
    late.join()
    assert outcome.state == "complete"


@pytest.mark.parametrize("over", [begin_attempt, end_attempt], ids=["replaced", "ended"])
def test_a_worker_whose_attempt_ends_while_it_trains_ends(over, tmp_path):
    folder = tmp_path / "job"
    executor = LocalExecutor([Slot("cpu", threads=1)])
    try:
        given = call(folder, trouble="gate", marker=str(tmp_path / "gate"))
        running = executor.submit(given.func, *given.args, attempt=begin_attempt(folder))
        wait_until(lambda: Follower(folder).read())
        over(folder)
        with pytest.raises(WorkerDied):
            running.result(LONG)
    finally:
        executor.shutdown(cancel_futures=True)


class Killed(BaseException):
    """A kill -9, as far as what it leaves goes."""


def test_what_a_dead_driver_left_in_a_queue_does_nothing(toy_file, monkeypatch):
    """Neither while its trial waits for another attempt, nor during that, nor when all is done."""
    monkeypatch.setattr(attempts, "LATE_SECONDS", 0.0)
    queue, refused = [], []

    def try_queue():
        for waiting in queue:
            with pytest.raises(WorkerDied, match="attempt at the trial is over"):
                waiting()
            refused.append(waiting)

    class Queue(InlineExecutor):
        def submit(self, fn, /, *given, **named):
            queue.append(partial(fn, *given, **named, slot=self._slot))
            raise Killed

    class Later(InlineExecutor):
        def submit(self, fn, /, *given, **named):
            try_queue()
            return super().submit(fn, *given, **named)

    study = parse_study({**TOY, "arms": [], "seeds": [0]}, "test")
    for kind in (Queue, Later):
        with monkeypatch.context() as patch:
            patch.setattr("naslab.runs.driver.make_executor", kind)
            if kind is Queue:
                patch.setattr("naslab.runs.driver._Driver._leave", lambda self: None)
                with pytest.raises(Killed):
                    run_study(Ledger.start("runs.db", study), 1, Progress(Console(stderr=True), quiet=True))
            else:
                run_study(Ledger.start("runs.db", study), 1, Progress(Console(stderr=True), quiet=True))
    try_queue()
    trials = Ledger.open("runs.db", "toy").trials()
    assert len(refused) == len(trials), "before each attempt of the second driver, and once more"
    assert set(Counter(t.job.key for t in trials if t.state == "complete").values()) == {1}
    assert run_here(Ledger.start("runs.db", study)).trials() == trials
