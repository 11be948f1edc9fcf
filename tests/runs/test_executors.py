"""The contract of an executor, which each kind passes; a further one joins by a line in CHOICES."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from calls import (
    alive,
    die,
    die_with_children,
    double,
    fail,
    hold_with_children,
    load,
    meet,
    nap,
    parent_of,
    pid,
    wait_until,
)
from clusters import CHOICES, executor_of

from naslab.runs.executors import WorkerDied
from naslab.runs.executors.guard import Guard
from naslab.runs.executors.process import WARNINGS, WorkerProcess, pack, unpack

KINDS = list(CHOICES)
LONG = 240
"""Seconds to wait for an answer on a busy machine."""


@pytest.fixture(scope="module", params=KINDS)
def executor(request, tmp_path_factory):
    made = executor_of(request.param, 2, tmp_path_factory.mktemp(request.param))
    yield made
    made.shutdown(cancel_futures=True)


def test_results_exceptions_and_deaths_stay_with_their_call(executor):
    calls = [executor.submit(f, *a) for f, a in ((double, (4,)), (fail, ()), (die, ()), (double, (5,)))]
    assert calls[0].result(LONG) == (8, "cpu")
    with pytest.raises(ValueError, match="no"):
        calls[1].result(LONG)
    with pytest.raises(WorkerDied, match="exit code -9"):
        calls[2].result(LONG)
    assert calls[3].result(LONG) == (10, "cpu")


def test_a_call_may_have_children_which_end_with_its_worker(executor, tmp_path):
    loaded = executor.submit(load)
    with pytest.raises(WorkerDied):
        executor.submit(die_with_children, tmp_path / "pids").result(LONG)
    wait_until(lambda: not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split()))
    assert loaded.result(LONG) == [1, 2, 3]


def test_a_call_can_be_ended_alone_with_all_that_it_started(executor, tmp_path):
    calls = [executor.submit(hold_with_children, tmp_path / "pids"), executor.submit(double, 1)]
    assert calls[1].result(LONG) == (2, "cpu")
    wait_until((tmp_path / "pids").exists)
    executor.kill(calls[1])
    executor.kill(calls[0])
    with pytest.raises(WorkerDied):
        calls[0].result(LONG)
    wait_until(lambda: not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split()))


def test_two_work_at_once_in_processes_of_their_own(executor, tmp_path):
    places = tmp_path / "a", tmp_path / "b"
    met = [executor.submit(meet, *places), executor.submit(meet, *reversed(places))]
    assert [call.result(LONG) for call in met] == [None, None]
    assert executor.submit(pid).result(LONG) != os.getpid()


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_workers_are_warm(kind, tmp_path):
    executor = executor_of(kind, 1, tmp_path)
    try:
        assert len({executor.submit(pid).result(LONG) for _ in range(3)}) == 1
    finally:
        executor.shutdown(cancel_futures=True)


@pytest.mark.parametrize("kind", KINDS)
def test_shutdown_waits_or_cancels(kind, tmp_path):
    patient = executor_of(kind, 1, tmp_path)
    late = patient.submit(nap, 0.2)
    patient.shutdown()
    assert late.done()
    assert late.exception() is None
    with pytest.raises(RuntimeError, match="shut down"):
        patient.submit(pid)
    hasty = executor_of(kind, 1, tmp_path)
    calls = [hasty.submit(hold_with_children, tmp_path / f"pids{i}") for i in range(3)]
    wait_until((tmp_path / "pids0").exists)
    hasty.shutdown(cancel_futures=True)
    assert all(c.cancelled() or isinstance(c.exception(), WorkerDied) for c in calls)
    wait_until(lambda: not any(alive(int(pid)) for pid in (tmp_path / "pids0").read_text().split()))


def test_workers_end_with_a_killed_driver():
    script = (
        "import time; from naslab.runs.executors import LocalExecutor, Slot\n"
        "from calls import pid, nap\n"
        "if __name__ == '__main__':\n"
        "    e = LocalExecutor([Slot('cpu')]); print(e.submit(pid).result(), flush=True)\n"
        "    e.submit(nap, 600.0); time.sleep(600)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    wait_until(lambda: not alive(worker))


def test_a_guard_that_was_killed_has_a_successor_that_knows_its_groups():
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    guard = Guard()
    guard.watch(sleeper.pid)
    os.kill(guard.pid, signal.SIGKILL)
    wait_until(lambda: not alive(guard.pid))
    guard.forget(0)  # a group that ended
    guard.close()
    assert sleeper.wait(60) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="workers are copies on Linux alone")
def test_what_workers_are_copies_of_may_end_while_one_is_started():
    """A signal to all processes of a group, or of a job, ends it too."""
    guard = Guard()
    first = WorkerProcess(guard)
    source = parent_of(first.pid)
    os.kill(source, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(WorkerProcess, guard)
        time.sleep(0.2)  # it waits by now; if not, it finds the source gone, which is as good
        os.kill(source, signal.SIGKILL)
        workers = [first, second.result(LONG)]
    try:
        for worker in workers:
            assert unpack(worker.exchange(pack(os.getpid, (), {}))) == worker.pid
    finally:
        for worker in workers:
            worker.close()
        guard.close()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are copies on Linux alone")
def test_a_warning_to_all_processes_of_a_job_ends_none_of_them():
    """Neither the worker nor what workers are copies of: the next is a copy of the same."""
    guard = Guard()
    worker = WorkerProcess(guard)
    source = parent_of(worker.pid)
    assert unpack(worker.exchange(pack(os.getpid, (), {}))) == worker.pid
    for process in (source, worker.pid):
        for number in WARNINGS:
            os.kill(process, number)
    assert unpack(worker.exchange(pack(os.getpid, (), {}))) == worker.pid
    after = WorkerProcess(guard)
    assert parent_of(after.pid) == source
    for one in (worker, after):
        one.close()
    guard.close()
