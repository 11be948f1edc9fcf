"""A driver where there is neither the data nor the device: what it is told by a worker is all that it knows."""

from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from random import Random

import pytest
from inline import TOY

from naslab.nas.sampling import random_configuration
from naslab.runs.cli import run_command_line
from naslab.runs.executors import NodeLost, WorkerDied
from naslab.runs.executors.choose import Workers
from naslab.runs.facts import ControlFacts, Facts, describe, find_facts
from naslab.runs.ledger import Ledger
from naslab.runs.shipped import shipped_studies
from naslab.runs.study import Study, parse_study
from naslab.runs.trial import Outcome, RungRecord

METRIC = "score"


class Elsewhere(Executor):
    """Stands in for a cluster: says what workers would, at once, and with scores by chance."""

    def __init__(self, choice, slots, device, files, say):
        assert (choice.kind, device) == ("ray", "cuda")

    def submit(self, fn, document, job=None, *_, **__):
        study, answer = parse_study(document, "test"), Future()
        if fn is describe:
            controls = (ControlFacts("chance", True), ControlFacts("pixels", False))
            answer.set_result(Facts(METRIC, 3, controls, {"data": "elsewhere"}, "cuda: H100", 8))
        else:
            answer.set_result(outcome_of(study, job))
        return answer


def outcome_of(study, job):
    chance = Random(job.key)
    scores = {METRIC: chance.uniform(50, 90)}
    scores |= {f"validation_{METRIC}": scores[METRIC]}
    result = {"metric": METRIC}
    if job.role == "search":
        found = random_configuration(study.search_space, job.seed)
        scores, result = {}, result | {"genotype": found.as_dict(), "supernet_scores": {METRIC: 60.0}}
    phase = {"search": "search", "profile": "profile"}.get(job.role, "train")
    rungs = [RungRecord(3, 30.0, {METRIC: scores[METRIC]})] if scores else []
    return Outcome("complete", {phase: 36.0}, "cuda: H100", scores, result, threads=8), rungs


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_is_driven_without_its_data_and_without_a_gpu(name, tmp_path, monkeypatch, capsys):
    """No task is ever made, and its GPU could not be found here."""

    def no_task(*_):
        raise AssertionError("a task, which has the data")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Study, "make_task", no_task)
    monkeypatch.setattr("naslab.runs.driver.make_executor", Elsewhere)
    there = ["--set", "device=cuda", "--set", "executor.kind=ray", "--slots", "4"]
    assert run_command_line(["run", name, *there]) == 0, capsys.readouterr().err
    assert Path("naslab-runs/naslab.db").exists()


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_worker_that_dies_as_it_is_asked_has_a_successor(attempts, toy_file, tmp_path):
    """As on a node that is taken away; one dies twice here."""
    deaths, said = [WorkerDied("it died"), NodeLost("its node is gone")], []
    facts = Facts(METRIC, 3, (), {}, "cuda: H100", 8)

    class Dying(Executor):
        def submit(self, *_):
            answer = Future()
            if deaths:
                answer.set_exception(deaths.pop(0))
            else:
                answer.set_result(facts)
            return answer

    study = parse_study({**TOY, "executor": "ray", "limits": {"attempts": attempts}}, "test")
    ask = partial(find_facts, Ledger.start(str(tmp_path / "lab.db"), study), 1, Workers(Dying), said.append)
    if attempts < 3:
        with pytest.raises(WorkerDied):
            ask()
    else:
        assert ask() == facts
    assert said[1:] == ["it died; asking again", "its node is gone; asking again"][: attempts - 1]
