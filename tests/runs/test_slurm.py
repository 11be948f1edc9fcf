"""Jobs of Slurm that end in ways that nobody answers for: each comes to an end here, with a line that says which."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from calls import alive, fork_away, hold_with_children, job_of, leave_the_pipe, parent_of, pid, wait_until
from clusters import executor_of

from naslab.errors import InputError
from naslab.runs.executors import NodeLost, WorkerDied, slurm_watch
from naslab.runs.executors.choose import make_executor
from naslab.runs.executors.options import Slurm
from naslab.runs.executors.process import _answer, pack
from naslab.runs.executors.slurm_job import Ended

LONG = 240


@pytest.mark.parametrize("call", [leave_the_pipe, fork_away])
def test_a_worker_that_nobody_can_hear_any_more_is_dead(call, tmp_path):
    """It closed its end and works on; or it died, and a child that is in no group of its own keeps its end open."""
    executor = executor_of("local", 1, tmp_path)
    try:
        with pytest.raises(WorkerDied):
            executor.submit(call, tmp_path / "pid").result(LONG)
        assert executor.submit(pid).result(LONG)
    finally:
        executor.shutdown(cancel_futures=True)
        if call is fork_away:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_job_is_ended_where_interruptions_are_ignored(tmp_path):
    """As of what a shell starts in its background."""
    script = textwrap.dedent(f"""
        import signal
        from pathlib import Path
        from calls import hold_with_children, wait_until
        from clusters import executor_of

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if __name__ == "__main__":
            executor = executor_of("slurm", 1, Path({str(tmp_path)!r}))
            place = Path({str(tmp_path / "pids")!r})
            executor.submit(hold_with_children, place)
            wait_until(place.exists)
            executor.shutdown(cancel_futures=True)
    """)
    (tmp_path / "driver.py").write_text(script)
    subprocess.run([sys.executable, str(tmp_path / "driver.py")], check=True, timeout=LONG)
    wait_until(lambda: not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split()))


def test_signals_that_come_thick_and_fast_do_not_hold_a_job_up(tmp_path):
    """A handler that waits for a lock, and is interrupted by another, waits for ever."""
    executor = executor_of("slurm", 1, tmp_path)
    place = tmp_path / "pids"
    try:
        call = executor.submit(hold_with_children, place)
        wait_until(place.exists)
        job = job_of(int(place.read_text().split()[0]))
        worker = int(place.read_text().split()[0])
        told = job, parent_of(worker), worker  # Slurm tells all processes of a job
        for _ in range(500):
            for process in told:
                os.kill(process, signal.SIGUSR1)
                os.kill(process, signal.SIGUSR2)
        assert not call.done(), "a warning ends nothing"
        assert all(map(alive, told))
        for _ in range(20):
            with suppress(ProcessLookupError):
                os.kill(job, signal.SIGTERM)
        with pytest.raises(NodeLost, match="took its job"):
            call.result(LONG)
    finally:
        executor.shutdown(cancel_futures=True)


SLURM = {
    "sbatch": """
        grep -q 'partition=nowhere' "$1" && {
            echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1; }
        echo $$ > "$FAKE/job"; echo "Submitted batch job $$"
    """,
    "srun": "exit 1",
    "scancel": 'echo CANCELLED > "$FAKE/state"',
    "sacct": """
        echo >> "$FAKE/asked"; sleep "$(cat "$FAKE/slowness" 2> /dev/null || echo 0)"
        [ -e "$FAKE/no-accounts" ] && { echo 'sacct: error: accounting storage is disabled' >&2; exit 1; }
        echo 'JobID|State|NodeList'; echo "$(cat "$FAKE/job")|$(cat "$FAKE/state")|n1"
    """,
    "squeue": '[ -e "$FAKE/left" ] || cat "$FAKE/state"',
}
"""Commands that say of the one job what a test has written down, in the words of Slurm's own."""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A stand-in for a cluster's commands, and a function that says the state of its only job."""
    folder = tmp_path / "slurm-bin"
    folder.mkdir()
    for name, text in SLURM.items():
        (folder / name).write_text("#!/bin/sh\n" + textwrap.dedent(text))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setattr("naslab.runs.executors.slurm_watch.FILE_SECONDS", 0.5)
    monkeypatch.setattr("naslab.runs.executors.slurm_watch.SILENCE_SECONDS", 1.0)
    say = lambda state: (folder / "state").write_text(state)  # noqa: E731
    say("PENDING")
    return say


def submitted(tmp_path, said=print, **choice):
    """An executor, and its call in the job."""
    executor = make_executor(Slurm(kind="slurm", **choice), 1, "cpu", tmp_path, said)
    return executor, executor.submit(pid)


@pytest.mark.parametrize(
    ("state", "kind", "word"),
    [
        ("PREEMPTED", NodeLost, "PREEMPTED"),  # not queued again: jobs have --no-requeue
        ("NODE_FAIL", NodeLost, "NODE_FAIL"),
        ("CANCELLED by 0", NodeLost, "CANCELLED"),
        ("TIMEOUT", WorkerDied, "time limit"),
        ("OUT_OF_MEMORY", WorkerDied, "out of memory"),
        ("FAILED", WorkerDied, "without an answer"),
        ("COMPLETED", WorkerDied, "without an answer"),
    ],
)
def test_a_job_without_an_answer_is_told_by_its_state(slurm, tmp_path, state, kind, word):
    slurm(state)
    executor, call = submitted(tmp_path)
    with pytest.raises(WorkerDied, match=word) as death:
        call.result(LONG)
    assert type(death.value) is kind
    executor.shutdown()


def test_where_slurm_takes_jobs_away_at_once_the_next_wait_longer(slurm, tmp_path):
    """A lost node is no attempt, so that they would be submitted again without end, some a second."""
    slurm("CANCELLED by 0")
    said = []
    executor, call = submitted(tmp_path, said.append)
    (worker,) = executor._workers
    assert isinstance(call.exception(LONG), NodeLost)
    assert worker._brief == 1
    assert isinstance(executor.submit(pid).exception(LONG), NodeLost)
    assert worker._brief == 2
    slurm("FAILED")
    assert type(executor.submit(pid).exception(LONG)) is WorkerDied
    assert worker._brief == 0
    worker._brief = 20
    (Path(os.environ["FAKE"]) / "job").unlink()
    call = executor.submit(pid)
    wait_until(lambda: said)
    assert said == ["Slurm took 20 jobs away at once; the next is submitted in 60 s"]
    executor.shutdown(cancel_futures=True)
    assert type(call.exception(LONG)) is WorkerDied
    assert not (Path(os.environ["FAKE"]) / "job").exists(), "it was not submitted"


def test_a_suspended_job_is_not_over_and_a_cancelled_one_is(slurm, tmp_path):
    slurm("SUSPENDED")
    executor, call = submitted(tmp_path)
    wait_until((Path(os.environ["FAKE"]) / "asked").exists)
    time.sleep(1)
    assert not call.done()
    executor.kill(call)
    with pytest.raises(WorkerDied, match="cancelled"):
        call.result(LONG)
    executor.shutdown()


def test_a_cluster_without_accounts_is_asked_for_its_queue(slurm, tmp_path):
    folder = Path(os.environ["FAKE"])
    (folder / "no-accounts").touch()
    slurm("RUNNING")
    executor, call = submitted(tmp_path)
    wait_until((folder / "asked").exists)
    time.sleep(2)
    assert not call.done(), "it is still in the queue"
    (folder / "left").touch()
    with pytest.raises(WorkerDied, match="without an answer"):
        call.result(LONG)
    executor.shutdown()


@pytest.mark.parametrize(
    "fault",
    ["sacct fails from now on", "sacct hangs from now on", "sacct knows nothing of its end", "sacct has another word"],
)
def test_the_queue_is_asked_where_sacct_is_no_help(slurm, tmp_path, monkeypatch, fault):
    """A job that ended meanwhile, such as one whose node died, would be waited for without end."""
    monkeypatch.setattr("naslab.runs.executors.slurm_watch.ANSWER_SECONDS", 0.5)
    folder = Path(os.environ["FAKE"])
    slurm("RUNNING")
    executor, call = submitted(tmp_path)
    wait_until((folder / "asked").exists)
    assert not call.done()
    match fault:
        case "sacct fails from now on":
            (folder / "no-accounts").touch()
        case "sacct hangs from now on":
            (folder / "slowness").write_text("20")
        case "sacct knows nothing of its end":
            monkeypatch.setattr("naslab.runs.executors.slurm_watch.TRUST_SECONDS", 1.0)
        case _:
            slurm("LAUNCH_FAILED")
    (folder / "left").touch()
    with pytest.raises(WorkerDied, match=r"left the queue .*, without an answer"):
        call.result(LONG)
    executor.shutdown()


OVER = ("BOOT_FAIL", "CANCELLED", "CANCELLED by 123", "CANCELLED+", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
        "OUT_OF_MEMORY", "OUT_OF_ME+", "PREEMPTED", "REVOKED", "TIMEOUT")  # fmt: skip
NOT_OVER = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESV_DEL_HOLD",
            "REQUEUE_FED", "REQUEUE_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "LAUNCH_FAILED",
            "RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB", "UNKNOWN", "")  # fmt: skip


def test_a_job_is_over_in_the_states_of_slurms_manual_that_are_ends():
    assert [state for state in (*OVER, *NOT_OVER) if slurm_watch._ends(state)] == list(OVER)


def test_sacct_is_read_as_it_writes(monkeypatch):
    """A notice of the site, an empty line, arrays, steps, parts of a job, a line that is cut off: each by itself."""
    lines = [
        "Maintenance on Monday|!",
        "",
        slurm_watch.HEADER,
        "7_[0-2%2]|PENDING|None assigned",
        "7_3|RUNNING|n1",
        "7_3.batch|FAILED|n1",
        "8_[0-6:2]|PENDING|",
        "",
        "9+0|RUNNING|n2",
        "10|CANCELLED by 123|n3",
        "11",
    ]
    said = subprocess.CompletedProcess([], 0, "\n".join(lines), "")
    monkeypatch.setattr(slurm_watch, "_ask", lambda *command: said)
    watcher = slurm_watch._Watcher(delay_s=600)
    numbers = ["7_0", "7_2", "7_3", "8_2", "9", "10", "11", "12"]
    for number in numbers:
        watcher.register_job(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # submitit's, of the array with a step
        watcher.update()
    states = {number: watcher.get_state(number, mode="cache") for number in numbers}
    known = {"7_0": "PENDING", "7_2": "PENDING", "7_3": "RUNNING", "10": "CANCELLED by 123"}
    assert states == {number: known.get(number, "UNKNOWN") for number in numbers}
    said = subprocess.CompletedProcess([], 1, "", "sacct: error: slurmdbd: connection refused")
    watcher.update()
    states = {number: watcher.get_state(number, mode="cache") for number in numbers}
    assert states == {number: "CANCELLED by 123" if number == "10" else "UNKNOWN" for number in numbers}
    said = subprocess.CompletedProcess([], 0, "no header", "")
    watcher.update()
    assert watcher.get_state("10", mode="cache") == "CANCELLED by 123"


def test_an_answer_that_a_network_file_system_brings_late_is_waited_for(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr("naslab.runs.executors.slurm_watch.FILE_SECONDS", LONG)
    folder = Path(os.environ["FAKE"])
    slurm("COMPLETED")
    executor, call = submitted(tmp_path)
    wait_until((folder / "asked").exists)
    time.sleep(0.5)
    assert not call.done(), "its end is known, and its answer is not here yet"
    number = (folder / "job").read_text().strip()
    (folder / "answer").write_bytes(pickle.dumps(("success", Ended("answer", _answer(pack(len, ("four",), {}))))))
    os.replace(folder / "answer", tmp_path / "slurm" / f"{number}_0_result.pkl")
    assert call.result(LONG) == 4
    executor.shutdown()


def test_accounts_are_asked_once_for_all_jobs(slurm, tmp_path):
    """However many wait, and however long the answer takes: a controller that is busy would be made busier."""
    folder, jobs = Path(os.environ["FAKE"]), 8
    (folder / "slowness").write_text("0.5")
    slurm("RUNNING")
    executor = make_executor(Slurm(kind="slurm"), jobs, "cpu", tmp_path, print)
    began, calls = time.monotonic(), [executor.submit(pid) for _ in range(jobs)]
    wait_until((folder / "asked").exists)
    time.sleep(3)
    asked = (folder / "asked").read_text().count("\n")
    assert asked <= 2 + (time.monotonic() - began) / 2, (
        "submitit asks at most every two seconds, of eight jobs as of one"
    )
    (folder / "left").touch()
    executor.shutdown(cancel_futures=True)
    assert all(isinstance(call.exception(LONG), WorkerDied) for call in calls)


def test_what_slurm_refuses_is_one_line(slurm, tmp_path):
    executor, call = submitted(tmp_path, partition="nowhere")
    with pytest.raises(InputError, match=r"^executor: Slurm takes no job: .*invalid partition specified: nowhere"):
        call.result(LONG)
    executor.shutdown()


def test_a_job_that_breaks_before_its_call_is_an_attempt(tmp_path, monkeypatch):
    """Such as where the modules are not what they were; taken for a lost node it would be tried without end."""
    executor = executor_of("slurm", 1, tmp_path)
    executor._jobs._surroundings = None
    try:
        with pytest.raises(WorkerDied, match="AttributeError") as death:
            executor.submit(pid).result(LONG)
        assert type(death.value) is WorkerDied
    finally:
        executor.shutdown(cancel_futures=True)
