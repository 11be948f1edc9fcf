"""kill -9 of anything, then the same command: nothing finished is lost, nothing is repeated."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from naslab.efficiency.errors import InputError
from naslab.runs.events import Follower
from naslab.runs.ledger import Ledger
from naslab.runs.worker import COST


def start(path, *more):
    command = [sys.executable, "-m", "naslab", "run", str(path), "--storage", "runs.db", *more]
    # A shell that runs the tests in the background has SIGINT ignored, and children inherit that.
    listening = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=listening)


def wait_for(condition, seconds=90):
    deadline = time.time() + seconds
    while time.time() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def trials():
    return Ledger.open("runs.db", "toy").trials() if Path("runs.db").exists() and Path("runs.db").stat().st_size else []


def states():
    try:
        return Counter(t.state for t in trials())
    except (InputError, KeyError):  # the storage is half made while the driver starts
        return Counter()


def seconds_of_running():
    """So far, of each trial whose worker has begun it."""
    followers = [Follower(Path("toy/trials") / t.job.key) for t in trials() if t.state == "running"]
    return [sum(follower.seconds().values()) for follower in followers]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_driver_that_is_killed_or_interrupted_goes_on(toy_file, sent, code):
    path = toy_file(task={"epochs": 3, "seconds": 1.0})
    driver = start(path, "--slots", "2")
    # A trial that has just been handed to its worker has no seconds yet that could be charged.
    wait_for(lambda: states()["complete"] >= 2 and any(0.1 < s < 2.0 for s in seconds_of_running()))
    driver.send_signal(sent)
    assert driver.wait(30) == code
    finished = {t.job.key: t.number for t in trials() if t.state == "complete"}
    assert start(path, "--slots", "2").wait(120) == 0
    after = trials()
    complete = Counter(t.job.key for t in after if t.state == "complete")
    assert set(complete.values()) == {1}
    assert finished.items() <= {t.job.key: t.number for t in after if t.state == "complete"}.items()
    killed = [t for t in after if t.state == "killed"]
    assert killed
    assert all(t.job.key in complete for t in killed)
    assert sum(t.device_seconds for t in killed) > 0
    assert not any(t.state == "running" for t in after)


def test_a_training_killed_after_a_checkpoint_goes_on_from_it(toy_file):
    study = {
        "arms": [],
        "seeds": [0],
        "space": {"name": "nasiam", "preset": "tiny", "options": {"framework": "simclr"}},
        "task": {
            "dataset": {"train": 1024, "validation": 100, "test": 100},
            "batch_size": 128,
            "epochs": 6,
        },
    }
    path = toy_file(**study)
    driver = start(path)

    def checkpointed():
        return any(Path("toy/trials/reference").glob(f"*/seed0/{COST}"))

    wait_for(checkpointed)
    driver.kill()
    driver.wait()
    assert start(path).wait(120) == 0
    resumed = next(t for t in trials() if t.job.role == "reference" and t.state == "complete")
    killed = next(t for t in trials() if t.job.role == "reference" and t.state == "killed")
    assert resumed.carried_seconds["train"] > 0
    assert len(resumed.rungs) < 6
    assert killed.device_seconds > 0
    assert resumed.run_seconds > resumed.seconds["train"]
    os.rename("runs.db", "broken.db")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "name": "toy"}))
    assert start(path).wait(120) == 0
    whole = next(t for t in trials() if t.job.role == "reference")
    assert {k: v for k, v in whole.scores.items() if "top1" in k} == {
        k: v for k, v in resumed.scores.items() if "top1" in k
    }


def test_a_second_driver_is_refused(toy_file, capfd):
    path = toy_file(task={"epochs": 3, "seconds": 0.5})
    first = start(path)
    wait_for(lambda: states()["running"] >= 1)
    second = subprocess.run(
        [sys.executable, "-m", "naslab", "run", str(path), "--storage", "runs.db"], capture_output=True, text=True
    )
    first.send_signal(signal.SIGINT)
    first.wait(30)
    assert second.returncode == 2
    assert second.stderr.startswith("naslab: ")
    assert "another `naslab run` works on this study" in second.stderr
