"""Calls for workers, and waiting for what they do."""

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path


def double(number, slot):
    return 2 * number, slot.device


def fail(slot):
    raise ValueError("no")


def die(slot):
    os.kill(os.getpid(), signal.SIGKILL)


def pid(slot):
    return os.getpid()


def load(slot):
    """As a data loader does, which a daemon may not."""
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=queue.put, args=([1, 2, 3],))
    child.start()
    loaded = queue.get()
    child.join()
    return loaded


def seen(name, slot):
    return os.environ.get(name), slot


def hold_with_children(path, slot):
    """Never come back, with a child of either kind."""
    child = subprocess.Popen(["sleep", "1000"])
    forked = os.fork()
    if forked == 0:
        time.sleep(1000)
    Path(f"{path}.partial").write_text(f"{os.getpid()} {child.pid} {forked}")
    os.replace(f"{path}.partial", path)
    time.sleep(1000)


def die_with_children(path, slot):
    children = [subprocess.Popen(["sleep", "1000"])]
    forked = os.fork()
    if forked == 0:
        time.sleep(1000)
    path.write_text(f"{children[0].pid} {forked}")
    os.kill(os.getpid(), signal.SIGKILL)


def leave_the_pipe(path, slot):
    """Close whatever is open, and go on."""
    os.closerange(3, 1000)
    time.sleep(1000)


def fork_away(path, slot):
    """Die, and leave a child that is in no group of the worker's."""
    forked = os.fork()
    if forked == 0:
        os.setsid()
        path.write_text(str(os.getpid()))
        time.sleep(1000)
    wait_until(path.exists)
    os.kill(os.getpid(), signal.SIGKILL)


def meet(mine, other, slot):
    """Come back when another call has come here, too."""
    mine.touch()
    wait_until(other.exists)


def wait_until(condition, seconds=240):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def job_of(worker):
    """The process of a job that holds a worker: the parent of that which its workers are copies of."""
    return parent_of(parent_of(worker))


def parent_of(number):
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(number):
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def nap(seconds, slot):
    time.sleep(seconds)
    return time.time()
