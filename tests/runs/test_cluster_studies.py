"""Whole studies on every executor: what dies, what goes on, and what a driver without data or device needs to know."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import optuna
import pytest
import torch
from calls import alive
from clusters import CHOICES, begun, ray_cluster
from rich.console import Console

from naslab.efficiency.device import device_name
from naslab.errors import InputError
from naslab.runs.cli import run_command_line
from naslab.runs.driver import run_study
from naslab.runs.events import SIGN_OF_LIFE_SECONDS, Follower
from naslab.runs.executors.options import gpus_of
from naslab.runs.executors.slurm_submit import Jobs
from naslab.runs.lease import SESSIONS, LeaseLost, engine_of
from naslab.runs.ledger import Ledger
from naslab.runs.log import find_logs
from naslab.runs.progress import Progress
from naslab.runs.study import load_study

KINDS = list(CHOICES)


class Watching(Progress):
    """Does something when a trial has ended."""

    def __init__(self, act=lambda job, state: None):
        super().__init__(Console(stderr=True), quiet=True)
        self.act, self.said = act, []

    def finished(self, job, state, value, seconds, error):
        self.act(job, state)

    def say(self, line):
        self.said.append(line)


def start(path, kind):
    choice = CHOICES[kind]().model_dump(mode="json", exclude_defaults=True) | {"kind": kind}
    return Ledger.start("runs.db", load_study(path, [f"executor={choice}"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_is_interrupted_goes_on_and_prunes(kind, toy_file, tmp_path):
    """A worker dies, once; the driver is stopped when a trial ends after that; a proposal is judged.

    Not before: the end of a worker that dies while its driver is stopped is the driver's.
    """
    marker = tmp_path / "died"
    pruned = {"name": "arm", "engine": "optuna", "sampler": "random", "trials": 2, "pruner": "percentile", "keep": 1}
    path = toy_file(
        seeds=[1],
        arms=[{**pruned, "startup": 1}],
        random_architectures=0,
        task={"epochs": 2, "trouble": "die_once", "marker": str(marker)},
        finalists=1,
    )

    died = []

    def stop(job, state):
        if state == "interrupted":
            died.append(job.role)
        elif died and state == "complete":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_study(start(path, kind), 2, Watching(stop))
    assert died
    before = {t.job.key for t in Ledger.open("runs.db", "toy").trials() if t.state == "complete"}
    ledger = start(path, kind)
    run_study(ledger, 2, Watching())
    trials = ledger.trials()
    complete = Counter(t.job.key for t in trials if t.state == "complete")
    assert before
    assert before <= complete.keys()
    assert set(complete.values()) == {1}
    causes = Counter(t.cause for t in trials if t.state == "interrupted")
    assert causes["worker"] == 1
    assert set(causes) <= {"worker", "driver"}
    assert {t.state for t in trials} <= {"complete", "pruned", "interrupted"}
    assert len({t.device for t in trials if t.state == "complete"}) == 1


def test_a_driver_that_lost_its_lease_leaves_nothing_running(toy_file, tmp_path):
    path = toy_file(seeds=[1], arms=[], task={"epochs": 2, "trouble": "print"})
    ledger = start(path, "ray")

    def take_over(job, state):
        with engine_of(optuna.storages.get_storage("sqlite:///runs.db")).begin() as connection:
            connection.execute(SESSIONS.update().values(ended=True))

    with pytest.raises(LeaseLost):
        run_study(ledger, 2, Watching(take_over))
    assert "running" in {t.state for t in Ledger.open("runs.db", "toy").trials()}, "the next driver settles it"
    again = start(path, "ray")
    run_study(again, 1, Watching())
    printed = next(t for t in again.trials() if t.job.role == "reference" and t.state == "complete")
    text = find_logs(again.files, again.trials(), str(printed.number))[0]["text"]
    assert "from Python" in text
    assert "from a child" in text


def test_a_node_that_is_lost_in_mid_study_is_no_attempt_of_its_trial(toy_file, tmp_path, monkeypatch):
    """The reference waits at the gate on the second node; that node goes, and the trial goes on where there is room."""
    monkeypatch.setattr("naslab.runs.executors.ray_cluster.LOSS_SECONDS", 240.0)  # as long as a busy machine takes
    gate, cluster = tmp_path / "gate", ray_cluster()
    node = begun(lambda: cluster.add_node(num_cpus=1, resources={"second": 1}))
    path = toy_file(
        seeds=[1], arms=[], limits={"attempts": 1}, task={"epochs": 3, "trouble": "gate", "marker": str(gate)}
    )
    choice = {"kind": "ray", "address": cluster.address, "cpus": 0.1, "resources": {"second": 0.5}}
    ledger = Ledger.start("runs.db", load_study(path, [f"executor={choice}"]))
    lost = []

    def look(*_):
        waits = [
            f for f in map(Follower, ledger.files.glob("trials/reference/*/*")) if f.seconds() and f.rungs
        ]  # fmt: skip
        if waits and not lost:
            lost.append(node)
            cluster.remove_node(node, allow_graceful=False)
            begun(lambda: cluster.add_node(num_cpus=1, resources={"second": 1}))

    # Not before: its process may live a moment longer than its node, and would go through the gate, too.
    watching = Watching(lambda job, state: gate.touch() if state == "interrupted" else None)
    watching.update = look
    run_study(ledger, 1, watching)
    reference = [t for t in ledger.trials() if t.job.role == "reference"]
    assert [(t.state, t.cause) for t in reference] == [("interrupted", "node"), ("complete", None)]
    assert reference[0].device_seconds > 0
    assert Counter(t.state for t in ledger.trials() if t.job.role != "reference")["interrupted"] == 0


def test_a_driver_needs_neither_the_data_nor_the_device(toy_file, tmp_path, monkeypatch):
    """The workers alone are told where the data are."""
    data = tmp_path / "data"
    data.mkdir()
    path = toy_file(seeds=[1], arms=[], space={"name": "toy_space:Elsewhere"})
    overrides = ['executor={"kind": "ray", "address": "%s", "environment": {"TOY_DATA": "%s"}}']
    monkeypatch.delenv("TOY_DATA", raising=False)
    study = load_study(path, [overrides[0] % (ray_cluster().address, data)])
    with pytest.raises(InputError, match="TOY_DATA"):
        study.make_task(torch.device("cpu"))
    ledger, watching = Ledger.start("runs.db", study), Watching()
    run_study(ledger, 1, watching)
    assert {t.state for t in ledger.trials()} == {"complete"}
    assert {t.device for t in ledger.trials()} == {device_name(torch.device("cpu"))}
    assert watching.said[0] == "asking a worker for the facts of the task"  # what follows is how busy the cluster is
    again = Watching()
    run_study(Ledger.start("runs.db", study), 1, again)
    assert "asking a worker for the facts of the task" not in again.said, "what a worker said once is on record"


@pytest.mark.parametrize("kind", ["ray", "slurm"])
def test_a_gpu_study_may_be_driven_from_a_machine_without_one(kind, toy_file):
    gpu = load_study(toy_file(device="cuda"), [f"executor.kind={kind}"])
    assert gpus_of(gpu.executor, gpu.device) == 1
    two = load_study(toy_file(device="cuda"), [f"executor={{kind: {kind}, processes: 2}}"])
    assert gpus_of(two.executor, two.device) == 2
    assert gpu.digest == two.digest == load_study(toy_file(device="cuda")).digest, "where it runs decides no result"
    for device, gpus in (("cpu", 1), ("cuda", 0)):
        with pytest.raises(InputError, match=r"executor\.gpus"):
            load_study(toy_file(device=device), [f"executor={{kind: {kind}, gpus: {gpus}}}"])


def test_a_dry_run_says_what_only_a_worker_knows(toy_file, monkeypatch, capsys):
    monkeypatch.delenv("TOY_DATA", raising=False)
    path = toy_file(seeds=[1], arms=[], space={"name": "toy_space:Elsewhere"}, device="cuda")
    assert run_command_line(["run", str(path), "--dry-run", "--json", "--set", "executor.kind=slurm"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["jobs"] == {"reference": 1, "final": 0, "profile": 1}
    assert document["epochs"] is None
    assert "known once a worker has reported them" in document["unknown"]
    assert run_command_line(["run", str(path), "--dry-run"]) == 2


def test_a_trial_whose_job_slurm_ends_goes_on_from_its_checkpoint_in_the_next(toy_file, tmp_path, monkeypatch):
    """What the scheduler ends is pre-empted, and no attempt; near the end of the hours it is their end."""
    gate, hours, ended = tmp_path / "gate", [1.0], []
    (tmp_path / "gate0").touch()
    path = toy_file(
        seeds=[1],
        arms=[],
        random_architectures=0,
        space={"name": "toy_space:Resuming"},
        task={"epochs": 3, "marker": str(gate)},
        limits={"attempts": 2},
    )
    ledger = start(path, "slurm")
    submit = Jobs.submit

    def submit_with_hours(self, request):
        self.hours = hours[0]
        return submit(self, request)

    monkeypatch.setattr(Jobs, "submit", submit_with_hours)

    def look(*_):
        """Once there is a new checkpoint, end the job as Slurm would, before the gate opens for what comes next."""
        done = max(
            (r.epoch for f in map(Follower, ledger.files.glob("trials/reference/*/*")) for r in f.read()), default=0
        )
        if done == len(ended) + 1 and done < 3:
            (job,) = filter(alive, jobs_in(ledger.files / "slurm"))
            ended.append(job)
            hours[0] = 0.01
            os.kill(job, signal.SIGTERM)

    def go_on(job, state):
        if state == "interrupted":
            Path(f"{gate}{len(ended)}").touch()

    watching = Watching(go_on)
    watching.update = look
    run_study(ledger, 1, watching)
    reference = [t for t in ledger.trials() if t.job.role == "reference"]
    assert [(t.state, t.cause) for t in reference] == [
        ("interrupted", "node"),
        ("interrupted", "worker"),
        ("complete", None),
    ]
    assert "took its job" in reference[0].error
    assert "time limit" in reference[1].error
    assert [[rung.epoch for rung in t.rungs] for t in reference] == [[1], [2], [3]], "nothing is trained twice"
    spent = sum(t.seconds["train"] for t in reference[:2])
    assert 0 < reference[2].carried_seconds["train"] < spent + 2 * SIGN_OF_LIFE_SECONDS


def jobs_in(folder):
    """Numbers of the jobs whose files are there: on submitit's local cluster, of the processes that hold them."""
    return sorted(int(path.name.partition("_")[0]) for path in folder.glob("*_submitted.pkl"))
