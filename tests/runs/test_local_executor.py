"""The contract of an executor; a further one joins by a line in EXECUTORS."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from naslab.runs.executors import LocalExecutor, WorkerDied
from naslab.runs.executors.guard import Guard

EXECUTORS = {"local": lambda slots: LocalExecutor(slots, torch.device("cpu"))}


def double(number, device):
    return 2 * number, device


def fail(device):
    raise ValueError("no")


def die(device):
    os.kill(os.getpid(), signal.SIGKILL)


def pid(device):
    return os.getpid()


def load(device):
    loader = torch.utils.data.DataLoader([1, 2, 3], num_workers=1)
    return [int(x) for x in loader]


def die_with_children(path, device):
    children = [subprocess.Popen(["sleep", "1000"])]
    forked = os.fork()
    if forked == 0:
        time.sleep(1000)
    with open(path, "w") as file:
        file.write(f"{children[0].pid} {forked}")
    os.kill(os.getpid(), signal.SIGKILL)


def nap(seconds, device):
    time.sleep(seconds)
    return time.time()


@pytest.fixture(params=EXECUTORS)
def executor(request):
    made = EXECUTORS[request.param](2)
    yield made
    made.shutdown(wait=False, cancel_futures=True)


def test_results_exceptions_and_deaths_stay_with_their_call(executor):
    calls = [executor.submit(f, *a) for f, a in ((double, (4,)), (fail, ()), (die, ()), (double, (5,)), (double, (6,)))]
    assert calls[0].result(60) == (8, "cpu")
    with pytest.raises(ValueError, match="no"):
        calls[1].result(60)
    with pytest.raises(WorkerDied, match="exit code -9"):
        calls[2].result(60)
    assert [c.result(60)[0] for c in calls[3:]] == [10, 12]


def test_a_call_may_have_children_which_end_with_its_worker(executor, tmp_path):
    assert executor.submit(load).result(120) == [1, 2, 3]
    with pytest.raises(WorkerDied):
        executor.submit(die_with_children, tmp_path / "pids").result(120)
    wait_until(lambda: not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split()))


def test_a_call_can_be_ended_alone(executor):
    calls = [executor.submit(nap, 1000.0), executor.submit(double, 1)]
    assert calls[1].result(120) == (2, "cpu")
    executor.kill(calls[1])
    executor.kill(calls[0])
    with pytest.raises(WorkerDied):
        calls[0].result(120)
    assert executor.submit(double, 2).result(120) == (4, "cpu")


def test_workers_are_warm_and_two_work_at_once(executor):
    pids = {executor.submit(pid).result(60) for _ in range(6)}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    naps = [executor.submit(nap, 1.0) for _ in range(2)]
    ends = [n.result(60) for n in naps]
    assert abs(ends[0] - ends[1]) < 0.9


def test_shutdown_waits_or_cancels():
    patient = EXECUTORS["local"](1)
    late = patient.submit(nap, 0.2)
    patient.shutdown()
    assert late.done()
    with pytest.raises(RuntimeError, match="shut down"):
        patient.submit(pid)
    hasty = EXECUTORS["local"](1)
    started = time.time()
    calls = [hasty.submit(nap, 60.0) for _ in range(3)]
    hasty.shutdown(cancel_futures=True)
    assert time.time() - started < 50
    assert all(c.cancelled() or isinstance(c.exception(), WorkerDied) for c in calls)


def test_workers_end_with_a_killed_driver():
    script = (
        "import torch, time; from naslab.runs.executors import LocalExecutor\n"
        "from test_local_executor import pid, nap\n"
        "if __name__ == '__main__':\n"
        "    e = LocalExecutor(1, torch.device('cpu')); print(e.submit(pid).result(), flush=True)\n"
        "    e.submit(nap, 60.0); time.sleep(60)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    deadline = time.time() + 10
    while time.time() < deadline and alive(worker):
        time.sleep(0.05)
    assert not alive(worker)


def wait_until(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_guard_that_was_killed_has_a_successor_that_knows_its_groups():
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    guard = Guard()
    guard.watch(sleeper.pid)
    guard._process.kill()
    guard._process.wait()
    guard.forget(0)  # a group that ended
    guard.close()
    assert sleeper.wait(60) == -signal.SIGKILL
