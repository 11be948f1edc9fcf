"""What is handed to Slurm, and what becomes of jobs that it does not take for now."""

import os
from pathlib import Path

import pytest
from calls import pid, wait_until
from test_slurm import LONG, SLURM
from test_slurm import slurm as slurm  # a fixture

from naslab.errors import InputError
from naslab.runs.executors.choose import make_executor
from naslab.runs.executors.options import Slurm

SBATCH = """#!/bin/sh
{ [ -e "$FAKE/busy" ] || { [ -e "$FAKE/one-at-a-time" ] && grep -q -e --array "$1"; }; } && {
    echo 'sbatch: error: Job violates policy (job submit limit, time limits)' >&2; exit 1; }
env > "$FAKE/environment"; cat "$1" >> "$FAKE/scripts"
"""
"""Refuses what a test says, and notes what it is given."""


@pytest.fixture(autouse=True)
def strict(slurm, monkeypatch):
    (Path(os.environ["FAKE"]) / "sbatch").write_text(SBATCH + SLURM["sbatch"])
    monkeypatch.setattr("naslab.runs.executors.slurm_submit.BUSY_SECONDS", 0.05)


def submitted(tmp_path, said=print, **choice):
    """An executor, and its call in the job."""
    executor = make_executor(Slurm(kind="slurm", **choice), 1, "cpu", tmp_path / "jobs", said)
    return executor, executor.submit(pid)


def test_a_job_has_its_cores_and_nothing_of_a_job_that_the_driver_runs_in(slurm, tmp_path, monkeypatch):
    """Since Slurm 22.05 srun asks for one core unless it is told; and sbatch hands on what its caller was bound to."""
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CPU_BIND", "SLURM_CONF", "SBATCH_QOS"):
        monkeypatch.setenv(name, "own")
    slurm("COMPLETED")
    executor, call = submitted(tmp_path, cpus=3)
    assert call.exception(LONG)
    executor.shutdown()
    given = (Path(os.environ["FAKE"]) / "environment").read_text().splitlines()
    assert [line for line in given if line.startswith("SLURM_")] == ["SLURM_CONF=own"]
    assert "SBATCH_QOS=own" in given, "a default that the user has set"
    script = (Path(os.environ["FAKE"]) / "scripts").read_text()
    assert "#SBATCH --cpus-per-task=3" in script
    assert "--cpus-per-task=3" in next(line for line in script.splitlines() if line.startswith("srun "))


def test_files_of_jobs_which_know_the_environment_are_their_users_alone(slurm, tmp_path):
    slurm("COMPLETED")
    executor, call = submitted(tmp_path, environment={"HF_TOKEN": "sesame"})
    assert call.exception(LONG)
    executor.shutdown()
    assert list((tmp_path / "jobs/slurm").iterdir())
    assert (tmp_path / "jobs/slurm").stat().st_mode & 0o077 == 0


def test_more_jobs_than_slurm_takes_are_asked_for_again(slurm, tmp_path):
    """First in parts, as an array may be too much; then until there is room. What was refused from the start ends."""
    place, said = Path(os.environ["FAKE"]), []
    (place / "one-at-a-time").touch()
    slurm("COMPLETED")
    executor = make_executor(Slurm(kind="slurm"), 3, "cpu", tmp_path / "jobs", said.append)
    for call in [executor.submit(pid) for _ in range(3)]:
        assert "without an answer" in str(call.exception(LONG))
    assert (place / "scripts").read_text().count("#SBATCH --time=") == 3
    (place / "busy").touch()
    told, call = len(said), executor.submit(pid)
    wait_until(lambda: len(said) > told)
    assert not call.done()
    (place / "busy").unlink()
    assert "without an answer" in str(call.exception(LONG))
    assert {line.partition(":")[0] for line in said} == {"Slurm takes no job for now, and is asked again"}
    executor.shutdown()
    (place / "busy").touch()
    executor, call = submitted(tmp_path)
    with pytest.raises(InputError, match=r"^executor: Slurm takes no job: .*job submit limit"):
        call.result(LONG)
    executor.shutdown()


def test_a_driver_that_waits_for_slurm_to_take_its_jobs_can_be_ended(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr("naslab.runs.executors.slurm_submit.BUSY_SECONDS", 1000.0)
    slurm("COMPLETED")
    said = []
    executor, call = submitted(tmp_path, said.append)
    assert call.exception(LONG)
    (Path(os.environ["FAKE"]) / "busy").touch()
    call = executor.submit(pid)
    wait_until(lambda: said)
    executor.shutdown(cancel_futures=True)
    assert call.exception(LONG)
