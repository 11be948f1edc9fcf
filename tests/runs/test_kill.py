"""kill -9 of anything, then the same command: nothing finished is lost, nothing is repeated."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
import yaml
from calls import children_of
from clusters import CHOICES

from naslab.errors import InputError
from naslab.runs.events import Follower
from naslab.runs.ledger import Ledger
from naslab.runs.status import status
from naslab.runs.worker import COST

BARE = {"arms": [], "random_architectures": 0}
"""The reference and its controls alone: nothing else is asked about here."""
LOADING = {**BARE, "task": {"trouble": "slow data"}}
"""Whatever comes within 20 seconds finds the driver before its first trial."""
PATIENCE_SECONDS = 300
"""For a machine that is busy; no test waits for a moment, only for something that will be so."""


def gated(gate):
    """The reference with seed 1 waits before its last epoch until the gate opens: it is there to be interrupted."""
    return {**BARE, "task": {"epochs": 3, "trouble": "gate", "marker": str(gate)}}


def start(path, *more, folder=None, terminal=False):
    """A driver; `terminal`: which leads a group of processes, as in a shell."""
    command = [sys.executable, "-m", "naslab", "run", str(path), "--storage", str(Path("runs.db").resolve()), *more]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        start_new_session=terminal,
    )


def wait_for(condition, driver, pause=0.2):
    deadline = time.time() + PATIENCE_SECONDS
    while not condition():
        assert driver.poll() is None, driver.stderr.read()
        assert time.time() < deadline, "waited in vain"
        time.sleep(pause)  # looking costs the driver a core


def stopped_between_writes(driver):
    """Whether it stands, and does not hold the database: whoever stands with that in hand keeps all others from it."""
    driver.send_signal(signal.SIGSTOP)
    os.waitpid(driver.pid, os.WUNTRACED)
    try:
        with closing(sqlite3.connect("runs.db", timeout=0, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        driver.send_signal(signal.SIGCONT)
        return False
    return True


def end(driver):
    """Its exit code and what it said."""
    try:
        _, said = driver.communicate(timeout=PATIENCE_SECONDS)
    finally:
        driver.kill()
    return driver.returncode, said


def trials():
    try:
        return Ledger.open("runs.db", "toy").trials()
    except InputError:  # the storage is not made yet
        return []


def number_of(state):
    return Counter(t.state for t in trials())[state]


def waits_at_the_gate():
    """Whether the reference with seed 1 is in its second epoch, where it stays until the gate opens."""
    waiting = [t.job for t in trials() if t.state == "running" and t.job.role == "reference" and t.job.seed == 1]
    followers = [Follower(Path("toy/trials") / job.key) for job in waiting]
    return any(follower.read() and follower.seconds() for follower in followers)


@pytest.mark.parametrize(
    ("sent", "code", "kind"),
    [(signal.SIGKILL, -9, "local"), (signal.SIGTERM, 130, "local"), (signal.SIGKILL, -9, "ray")],
)
def test_a_driver_that_is_killed_or_interrupted_goes_on(toy_file, tmp_path, sent, code, kind):
    """What was interrupted is no attempt: one is all that a job has here."""
    gate, slots = tmp_path / "gate", "2" if sent == signal.SIGKILL else "1"
    choice = CHOICES[kind]().model_dump(mode="json", exclude_defaults=True) | {"kind": kind}
    path = toy_file(**gated(gate), limits={"attempts": 1}, executor=choice)
    driver = start(path, "--slots", slots)
    wait_for(lambda: number_of("complete") >= 1 and waits_at_the_gate(), driver)
    driver.send_signal(sent)
    assert end(driver)[0] == code
    finished = {t.job.key: t.number for t in trials() if t.state == "complete"}
    gate.touch()
    assert end(start(path, "--slots", slots))[0] == 0
    after = trials()
    complete = Counter(t.job.key for t in after if t.state == "complete")
    assert set(complete.values()) == {1}
    assert finished.items() <= {t.job.key: t.number for t in after if t.state == "complete"}.items()
    interrupted = [t for t in after if t.state == "interrupted"]
    assert all(t.job.key in complete and t.cause == "driver" for t in interrupted)
    if kind != "ray":  # where a worker ends some time after its driver, and may be through by then
        assert sum(t.device_seconds for t in interrupted) > 0
    assert not any(t.state == "running" for t in after)
    document = status(Ledger.open("runs.db", "toy"))
    assert document["failures"] == []
    assert document["unaccounted"] >= 0


def test_a_training_killed_after_a_checkpoint_goes_on_from_it(toy_file):
    study = {
        **BARE,
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

    wait_for(checkpointed, driver, pause=0.02)  # five epochs and the scores are left
    driver.kill()
    end(driver)
    assert end(start(path))[0] == 0
    resumed = next(t for t in trials() if t.job.role == "reference" and t.state == "complete")
    killed = next(t for t in trials() if t.job.role == "reference" and t.state == "interrupted")
    assert resumed.carried_seconds["train"] > 0
    assert {rung.epoch for rung in (*killed.rungs, *resumed.rungs)} == set(range(1, 7)), "each rung is told"
    assert killed.device_seconds > 0
    assert resumed.run_seconds > resumed.seconds["train"]
    os.rename("runs.db", "broken.db")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "name": "toy"}))
    assert end(start(path))[0] == 0
    whole = next(t for t in trials() if t.job.role == "reference")
    assert {k: v for k, v in whole.scores.items() if "top1" in k} == {
        k: v for k, v in resumed.scores.items() if "top1" in k
    }


def test_a_second_driver_is_refused_from_any_folder(toy_file, tmp_path):
    gate, elsewhere = tmp_path / "gate", tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = toy_file(**gated(gate))
    first = start(path)
    wait_for(waits_at_the_gate, first)
    code, said = end(start(path, folder=elsewhere))
    assert code == 2
    assert said.startswith("naslab: ")
    assert said.count("\n") == 1
    assert "works on this study" in said
    gate.touch()
    assert end(first)[0] == 0
    assert {t.state for t in trials()} == {"complete"}
    assert not list(elsewhere.iterdir())


def test_a_driver_that_was_stopped_for_too_long_stops_by_itself(toy_file, tmp_path, monkeypatch):
    """It has nothing to write, as its only trial waits at the gate; its heart tells it."""
    monkeypatch.setenv("NASLAB_STALE_SECONDS", "3")
    gate = tmp_path / "gate"
    path = toy_file(**gated(gate), seeds=[1])
    first = start(path)
    wait_for(waits_at_the_gate, first)
    wait_for(lambda: stopped_between_writes(first), first)
    wait_for(lambda: time.time() - Ledger.open("runs.db", "toy").sessions()[-1]["seen"] > 3, first)
    second = start(path)
    wait_for(lambda: len(Ledger.open("runs.db", "toy").sessions()) == 2 and waits_at_the_gate(), second)
    first.send_signal(signal.SIGCONT)
    code, said = end(first)
    assert code == 1
    assert said.splitlines()[-1].startswith("naslab: toy: another driver took this study over")
    assert "Traceback" not in said, said
    gate.touch()
    assert end(second)[0] == 0
    assert Counter(t.job.key for t in trials() if t.state == "complete").most_common(1)[0][1] == 1
    assert {t.state for t in trials()} == {"complete", "interrupted"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process has loaded stands in /proc")
def test_ctrl_c_before_anything_runs_is_one_line(toy_file):
    """While it still imports; Python's own start, before any of ours, answers as Python does."""
    driver = start(toy_file(**LOADING))
    wait_for(lambda: "libtorch_cpu" in Path(f"/proc/{driver.pid}/maps").read_text(), driver)
    driver.send_signal(signal.SIGINT)
    code, said = end(driver)
    assert code == 130
    assert said.splitlines() == ["naslab: interrupted; run the same command again to resume"]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are copies on Linux alone")
def test_ctrl_c_in_a_terminal_while_workers_begin_to_import_is_one_line(toy_file):
    """It goes to all processes there, and what workers are copies of does not answer it, too."""
    driver = start(toy_file(**LOADING), terminal=True)
    wait_for(lambda: b"multiprocessing.forkserver" in commands_of_children(driver.pid), driver)
    os.killpg(driver.pid, signal.SIGINT)
    code, said = end(driver)
    assert code == 130, said
    assert said.splitlines() == ["naslab: interrupted; run the same command again to resume"]


def commands_of_children(number):
    found = b""
    for child in children_of(number):
        with suppress(OSError):  # it has ended meanwhile
            found += Path(f"/proc/{child}/cmdline").read_bytes()
    return found


COMMAND = """
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)
from naslab.__main__ import main
from naslab.runs.interrupts import HeldBack
cli = sys.modules["naslab.runs.cli"] = types.ModuleType("cli")
class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def run_command_line():
    {}
cli.run_command_line = run_command_line
main()
"""
IN_A_STRING = """
    try:
        exec("import signal; signal.raise_signal(signal.SIGINT)")  # as a dataclass that is being made
    except KeyboardInterrupt:
        return 130
"""
IN_A_FINALISER = """
    Dropped()
    with HeldBack():
        return 0
"""


@pytest.mark.parametrize("moment", [IN_A_STRING, IN_A_FINALISER], ids=["string", "finaliser"])
def test_ctrl_c_where_python_would_forget_it_is_still_130(tmp_path, moment):
    (tmp_path / "ctrl_c.py").write_text(COMMAND.format(moment))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run([sys.executable, "-m", "ctrl_c"], env=environment, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
