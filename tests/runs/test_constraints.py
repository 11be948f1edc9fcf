"""Constraints: checked before training, charged, told to samplers, never ranked."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from inline import run_here
from jsonschema import Draft202012Validator
from toy_space import Sized

from naslab.efficiency import profile
from naslab.errors import InputError
from naslab.runs.cli import run_command_line
from naslab.runs.constraints import Check, Constraints, checks_of, find_costs
from naslab.runs.ledger import Ledger
from naslab.runs.past import Past, tell
from naslab.runs.plan import plan_next
from naslab.runs.ranking import rank
from naslab.runs.report import build_report
from naslab.runs.study import load_study, parse_study
from naslab.search_spaces import Options

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
GOOD, FAIR, POOR = (["good"] * 4, ["fair"] * 4, ["poor"] * 4)
SWEEP = {"name": "cells", "engine": "grid", "vary": {"cell": [GOOD, POOR]}, "base": {"head": "cell"}}
SIZED = {"name": "toy_space:Sized"}


def run(path):
    return run_here(Ledger.start("runs.db", load_study(path)))


def test_counts_are_those_of_the_profile_on_meta_and_on_real_tensors():
    space = Sized(Options())
    task = space.Task(space, space.Task.Options(), torch.device("cpu"))
    configuration = space.configuration({"head": "cell", "cell": ["good", "good", "poor", "fair"]})
    costs = find_costs(("params", "flops", "memory_gb", "latency_ms"), space, configuration, task, 64)
    model = space.build(configuration)
    measured = profile(model, task.example_input(64), min_seconds=0.01)
    assert costs["params"] == measured.parameters == 3 * 5
    assert costs["flops"] == measured.flops.forward == 2 * 64 * 4 * 3
    assert costs["memory_gb"] == measured.peak_memory_bytes / 1e9
    assert costs["latency_ms"] > 0
    assert find_costs((), space, configuration, task, 64) == {}

    class NeedsValues(Sized):
        def build(self, configuration):
            model = super().build(configuration)
            model.linear.register_forward_hook(lambda m, x, y: float(y.sum()) and None)
            return model

    assert find_costs(("params", "flops"), NeedsValues(Options()), configuration, task, 64)["flops"] == costs["flops"]


@pytest.mark.parametrize("bad", [{"max_params": 0}, {"max_flops": -1}, {"max_size": 3}, {"max_latency_ms": "fast"}])
def test_limits_are_positive_and_known(bad):
    document = {"schema": "naslab.study/1", "name": "x", "space": SIZED, "constraints": bad}
    with pytest.raises(InputError, match=r"constraints\.max_") as caught:
        parse_study(document, "x.yaml")
    assert "\n" not in str(caught.value)


def test_a_check_says_what_is_wrong():
    (check,) = Constraints(max_params=10).judge({"params": 15, "flops": 3.0})
    assert check == Check("max_params", 15, 10)
    assert (check.broken, check.excess, str(check)) == (True, 0.5, "max_params: 15 > 10")
    assert not Check("max_flops", 10, 10).broken


def test_a_point_that_breaks_one_is_not_trained_and_not_ranked(toy_file):
    path = toy_file(space=SIZED, arms=[SWEEP], random_architectures=0, constraints={"max_params": 10})
    ledger = run(path)
    trials = ledger.trials()
    pruned = [t for t in trials if t.state == "pruned"]
    assert len(pruned) == 1, "the other seed is not tried"
    (broken,) = pruned
    assert broken.result["constraints"] == [{"constraint": "max_params", "value": 25, "limit": 10}]
    assert broken.error == "breaks max_params: 25 > 10"
    assert set(broken.seconds) <= {"profile", "other"}
    assert broken.seconds["profile"] > 0
    assert broken.rungs == ()
    ranking = rank(ledger.study, trials)
    assert {tuple(row.configuration.chain("cell")) for row in ranking.rows} == {tuple(FAIR), tuple(POOR)}
    (refused,) = ranking.refused
    assert refused.name.startswith("cells cell=good·good·good·good ")
    assert refused.trials == (broken.number,)
    document = json.loads(json.dumps(ranking.to_dict()))
    Draft202012Validator(json.loads((SCHEMAS / "rank.json").read_text())).validate(document)
    charged = sum(sum(t.core_seconds.values()) for t in trials) / 3600
    assert sum(arm.device_hours for arm in ranking.arms) == pytest.approx(charged)
    assert "breaks max_params: 25 &gt; 10" in build_report(ledger.study, trials).page
    controls = ledger.study.make_task(torch.device("cpu")).controls()
    for i in range(len(trials)):
        assert plan_next(Past(ledger.study, "score", trials[:i]), controls).job.key == trials[i].job.key
    assert len(run(path).trials()) == len(trials), "a finished study runs nothing again"


def test_a_reference_that_breaks_one_is_trained_and_marked(toy_file, capsys):
    path = toy_file(space=SIZED, arms=[SWEEP], random_architectures=0, constraints={"max_flops": 5, "batch_size": 1})
    ledger = run(path)
    reference = rank(ledger.study, ledger.trials()).reference
    assert reference.rank is None
    assert [check.constraint for check in reference.breaks] == ["max_flops"]
    assert reference.breaks[0].value == 8
    assert run_command_line(["rank", "toy", "--storage", "runs.db"]) == 0
    assert "The reference breaks max_flops: 8 > 5" in capsys.readouterr().out
    assert "The reference breaks" in build_report(ledger.study, ledger.trials()).answer.sentence


@pytest.mark.parametrize("sampler", ["tpe", "evolution"])
def test_samplers_hear_of_it_and_the_arm_ends(toy_file, sampler):
    arm = {"name": "arm", "engine": "optuna", "sampler": sampler, "trials": 12}
    if sampler == "evolution":
        arm["population"] = 3
    path = toy_file(space=SIZED, arms=[arm], random_architectures=2, constraints={"max_params": 10}, seeds=[0])
    ledger = run(path)
    trials = ledger.trials()
    proposals = [t for t in trials if t.job.role == "proposal"]
    states = Counter(t.state for t in proposals)
    assert len(proposals) == 12
    assert states["pruned"]
    assert states["complete"]
    for trial in proposals:
        good = trial.job.configuration.chain("cell").count("good")
        assert (trial.state == "pruned") == (5 + 5 * good > 10)
        told = tell(ledger.study, trial, "score")
        assert told.violations == ((5 + 5 * good) / 10 - 1,)
        assert (told.value is None) == (trial.state == "pruned")
    found = [row for row in rank(ledger.study, trials).rows if row.arms]
    assert all(row.configuration.chain("cell").count("good") <= 1 for row in found)
    assert found
    randoms = [t for t in trials if t.job.role == "random"]
    assert sum(t.state == "complete" for t in randoms) == 2, "those that break it are replaced"


def test_limits_are_part_of_what_a_study_is(toy_file):
    run(toy_file(arms=[], seeds=[0]))
    with pytest.raises(InputError, match="constraints changed"):
        Ledger.start("runs.db", load_study(toy_file(arms=[], seeds=[0], constraints={"max_params": 5})))


def test_a_dry_run_names_the_points_that_break_what_can_be_counted(toy_file, capsys):
    path = toy_file(space=SIZED, arms=[SWEEP], constraints={"max_params": 10, "max_latency_ms": 1e-6})
    command = ["run", str(path), "--dry-run", "--storage", "runs.db"]
    assert run_command_line([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads((SCHEMAS / "run.json").read_text())).validate(document)
    (one,) = document["breaks"]
    assert (one["arm"], one["constraint"], one["value"], one["limit"]) == ("cells", "max_params", 25, 10)
    assert run_command_line(command) == 0
    assert "max_params is 25, at most 10 is allowed: would not be trained" in capsys.readouterr().out


def test_latency_and_memory_are_measured_only_where_asked(toy_file):
    limits = {"max_latency_ms": 1e-6, "max_memory_gb": 1.0}
    ledger = run(toy_file(arms=[SWEEP], random_architectures=0, seeds=[0], constraints=limits))
    finals = [t for t in ledger.trials() if t.job.role == "final"]
    assert {t.state for t in finals} == {"pruned"}
    assert [[check.broken for check in checks_of(t.result)] for t in finals] == [[True, False]] * 2
