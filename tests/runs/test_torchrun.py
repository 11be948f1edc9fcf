"""A trial of two processes: the same training as by one, and one trial to whoever records, stops or kills it."""

import os
import subprocess
import sys
from functools import partial

import pytest
from calls import alive, wait_until
from inline import TOY

from naslab.runs import torchrun
from naslab.runs.executors import LocalExecutor, Slot, WorkerDied
from naslab.runs.study import parse_study
from naslab.runs.trial import Job
from naslab.runs.verdict import ask_to_stop, give_verdict
from naslab.runs.worker import run_job

EXACT = 1e-9
"""Float64: sums of two halves round otherwise than one sum, by 1e-16 a step, over 9 steps of a contraction."""
LONG = 240
ARM = {"name": "arm", "engine": "optuna", "sampler": "random", "trials": 2, "pruner": "asha"}


@pytest.fixture(autouse=True)
def no_job_takes_for_ever(monkeypatch):
    """Its processes would wait for one another for days; a study has limits for that."""
    monkeypatch.setattr(torchrun.subprocess, "run", partial(subprocess.run, timeout=LONG))


def run(folder, processes, budget=False, parallel="ddp", role="reference", **task):
    study = parse_study({**TOY, "arms": [ARM], "space": {"name": "together_space:Space"}, "task": task}, "test")
    arm = "arm" if role == "proposal" else None
    job = Job(f"{role}/x/seed0", role, role, 0, study.search_space.reference, arm)
    slot = Slot("cpu", share=float(processes), threads=processes, processes=processes, parallel=parallel)
    if budget:
        folder.mkdir(exist_ok=True)
        ask_to_stop(folder, "budget")
    return study.document(), job, folder, folder / "log", slot


def outcome_of(*given, **task):
    outcome, rungs = run_job(*run(*given, **task))
    return outcome, rungs


def test_two_processes_train_as_one_and_one_goes_on_from_their_checkpoint(tmp_path):
    """What one begins, two go on with: tests/search_spaces/test_together.py."""
    alone, rungs = outcome_of(tmp_path / "one", 1)
    together, their_rungs = outcome_of(tmp_path / "two", 2)
    assert (alone.state, together.state) == ("complete", "complete"), together.error
    assert together.scores == pytest.approx(alone.scores, abs=EXACT)
    assert [r.epoch for r in their_rungs] == [r.epoch for r in rungs] == [1, 2, 3]
    for one, other in zip(rungs, their_rungs, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=EXACT)
    assert together.device_share == 2, "both are charged"
    assert together.core_seconds["train"] > 0
    assert together.result["processes"] == 2
    cut, _ = outcome_of(tmp_path / "cut", 2, True, "fsdp2")
    assert (cut.state, cut.cause, cut.result["parallel"]) == ("interrupted", "budget", "fsdp2")
    (tmp_path / "cut/stop").unlink()
    resumed, later = outcome_of(tmp_path / "cut", 1)
    assert [r.epoch for r in later] == [2, 3]
    assert resumed.scores == pytest.approx(alone.scores, abs=EXACT)


def test_a_proposal_of_two_processes_is_pruned(tmp_path):
    (tmp_path / "job").mkdir()
    give_verdict(tmp_path / "job", 1, True)
    outcome, rungs = outcome_of(tmp_path / "job", 2, role="proposal")
    assert (outcome.state, outcome.device_share, outcome.result["processes"]) == ("pruned", 2, 2), outcome.error
    assert [r.epoch for r in rungs] == [1]


@pytest.mark.parametrize("where", [0, 1])
def test_what_any_of_them_raises_is_the_trials_failure(where, tmp_path):
    outcome, rungs = outcome_of(tmp_path / "job", 2, trouble="raise", trouble_rank=where)
    assert (outcome.state, outcome.error) == ("failed", "ValueError: the regression broke")
    assert [r.epoch for r in rungs] == [1]
    assert sum(outcome.seconds.values()) > 0
    assert "the regression broke" in (tmp_path / "job/log").read_text()


def test_the_death_of_one_is_the_death_of_all(tmp_path):
    with pytest.raises(WorkerDied):
        run_job(*run(tmp_path / "job", 2, trouble="die"))


def test_all_are_killed_together(tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()
    *given, slot = run(tmp_path / "job", 2, trouble="hang", pids=str(pids))
    executor = LocalExecutor([slot])
    try:
        call = executor.submit(run_job, *given)
        wait_until(lambda: len(list(pids.iterdir())) == 2)
        executor.kill(call)
        with pytest.raises(WorkerDied):
            call.result(LONG)
        wait_until(lambda: not any(alive(int(path.name)) for path in pids.iterdir()))
    finally:
        executor.shutdown(cancel_futures=True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a process of its parent's end")
def test_a_process_whose_torchrun_has_ended_before_it_looks_ends(tmp_path):
    """It would wait for the others as long as process 0 may evaluate."""
    command = [sys.executable, "-m", "naslab.runs.torchrun_rank", str(tmp_path / "nowhere")]
    holder = {**os.environ, torchrun.HOLDER: str(os.getpid())}  # the parent of what was its parent
    done = subprocess.run(command, env=holder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
