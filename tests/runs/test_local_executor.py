"""The contract of an executor; a further one joins by a line in EXECUTORS."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from naslab.runs.executors import LocalExecutor, WorkerDied

EXECUTORS = {"local": lambda slots: LocalExecutor(slots, torch.device("cpu"))}


def double(number, device):
    return 2 * number, device


def fail(device):
    raise ValueError("no")


def die(device):
    os.kill(os.getpid(), signal.SIGKILL)


def pid(device):
    return os.getpid()


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


def alive(number):
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
