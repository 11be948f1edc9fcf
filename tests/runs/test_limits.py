"""When to stop: a trial, a study that only fails, all of it; and what was given up is said, and can be tried again."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from naslab.errors import NaslabError
from naslab.runs.cli import run_command_line
from naslab.runs.driver import run_study
from naslab.runs.ledger import Ledger
from naslab.runs.limits import deaths_without_progress, forgivable, given_up
from naslab.runs.output import err
from naslab.runs.progress import Progress
from naslab.runs.study import load_study
from naslab.runs.trial import Job, RungRecord, Trial

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
BARE = {"arms": [], "random_architectures": 0}
"""The reference and its controls alone."""


def run(path):
    ledger = Ledger.start("runs.db", load_study(path))
    run_study(ledger, 1, Progress(err, quiet=True))
    return ledger


def command(capsys, *arguments):
    code = run_command_line([*map(str, arguments), "--storage", "runs.db"])
    return code, capsys.readouterr()


def rung(epoch):
    return RungRecord(epoch, float(epoch), {"score": 1.0})


def attempt(number, last_epoch, state="interrupted", cause="worker"):
    rungs = tuple(rung(epoch) for epoch in range(1, last_epoch + 1))
    return Trial(number, Job("reference/x", "reference", "reference", 0), state, rungs, cause=cause)


@pytest.mark.parametrize(
    ("earlier", "last_epoch", "deaths"),
    [
        ([], 0, 1),
        ([attempt(0, 0), attempt(1, 0)], 0, 3),
        ([attempt(0, 2), attempt(1, 2)], 2, 3),
        ([attempt(0, 0), attempt(1, 0)], 1, 1),
        ([attempt(0, 1), attempt(1, 1), attempt(2, 3)], 3, 2),
        ([attempt(i, 0, cause="driver") for i in range(9)], 0, 1),
        ([attempt(0, 0), attempt(1, 5, cause="driver")], 5, 1),
        ([attempt(0, 0), attempt(1, 0, "failed")], 0, 1),
    ],
)
def test_deaths_count_only_without_progress_and_only_the_workers_own(earlier, last_epoch, deaths):
    assert deaths_without_progress(earlier, [rung(e) for e in range(1, last_epoch + 1)]) == deaths


def test_what_was_given_up_is_told_by_the_last_attempt():
    failed = attempt(0, 0, "failed")
    assert given_up([failed]) == [failed]
    assert given_up([failed, attempt(1, 0, "complete")]) == []
    assert given_up([failed, attempt(1, 0, "interrupted")]) == []
    assert forgivable([failed, attempt(1, 0, "timed_out")]) == {0, 1}


def test_a_study_that_only_fails_stops(toy_file, inline):
    path = toy_file(task={"epochs": 1, "returns": "none"}, limits={"failures_in_a_row": 3})
    with pytest.raises(NaslabError, match=r"stopped after 3 equal failures in a row.*evaluate returned None") as caught:
        run(path)
    assert "\n" not in str(caught.value)
    trials = Ledger.open("runs.db", "toy").trials()
    assert [t.state for t in trials if t.state != "complete"] == ["failed"] * 3


def test_what_failed_is_said_and_tried_again_when_asked(toy_file, inline, capsys, tmp_path):
    task = {"epochs": 2, "trouble": "raise_once", "marker": str(tmp_path / "broke")}
    path = toy_file(task=task, arms=[])
    code, _ = command(capsys, "run", path)
    assert code == 3
    code, printed = command(capsys, "run", path, "--json")
    document = json.loads(printed.out)
    Draft202012Validator(json.loads((SCHEMAS / "run.json").read_text())).validate(document)
    assert code == 3
    assert "--retry-failed" in printed.err
    (failure,) = document["failures"]
    assert failure["state"] == "failed"
    assert failure["error"] == "ValueError: the toy broke once"
    number = len(Ledger.open("runs.db", "toy").trials())
    code, printed = command(capsys, "run", path, "--retry-failed", "--json")
    assert code == 0
    document = json.loads(printed.out)
    assert document["failures"] == []
    assert document["trials"]["failed"] == 1
    again = [t for t in Ledger.open("runs.db", "toy").trials() if t.number >= number]
    assert [t.job.key for t in again if t.job.role == "reference"] == [failure["key"]]


def test_what_a_task_prints_is_in_its_log_and_nowhere_else(toy_file, inline, capfd):
    path = toy_file(task={"epochs": 2, "trouble": "print"}, arms=[], seeds=[1])
    assert run_command_line(["run", str(path), "--storage", "runs.db", "--json"]) == 0
    json.loads(capfd.readouterr().out)
    (reference,) = [t for t in Ledger.open("runs.db", "toy").trials() if t.job.role == "reference"]
    words = ["from Python", "to the error stream", "from native code", "from a child"]
    for name in (str(reference.number), reference.job.key):
        assert run_command_line(["logs", "toy", name, "--storage", "runs.db"]) == 0
        assert capfd.readouterr().out.splitlines() == words
    assert run_command_line(["logs", "toy", str(reference.number), "--storage", "runs.db", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    Draft202012Validator(json.loads((SCHEMAS / "logs.json").read_text())).validate(document)
    assert run_command_line(["logs", "toy", "99", "--storage", "runs.db"]) == 2


def test_a_failure_leaves_its_traceback(toy_file, inline, capsys):
    path = toy_file(task={"epochs": 2, "trouble": "raise"}, arms=[], seeds=[1])
    assert command(capsys, "run", path)[0] == 3
    (failed,) = [t for t in Ledger.open("runs.db", "toy").trials() if t.state == "failed"]
    assert "_misbehave" in command(capsys, "logs", "toy", failed.number)[1].out
    assert failed.fault.startswith("ValueError at ")


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended(toy_file):
    path = toy_file(task={"epochs": 2, "trouble": "hang"}, **BARE, seeds=[1, 2], limits={"trial_hours": 6 / 3600})
    trials = run(path).trials()
    ends = {t.job.seed: t for t in trials if t.job.role == "reference"}
    assert ends[1].state == "timed_out"
    assert "limits.trial_hours" in ends[1].error
    assert ends[1].device_seconds > 1.0
    assert ends[2].state == "complete"


def test_the_budget_is_overspent_by_at_most_a_rung_and_may_grow(toy_file, inline, capsys):
    settings = {"task": {"epochs": 5, "seconds": 0.5}, "arms": [], "seeds": [0]}
    spent, trials = 0.0, []
    # What the controls cost differs from machine to machine: a bit more until the reference has begun.
    while all(t.job.role == "control" for t in trials):
        limit = spent + 0.01
        trials = run(toy_file(**settings, limits={"gpu_hours": limit / 3600})).trials()
        spent = sum(t.device_seconds for t in trials)
    assert limit <= spent
    stopped = [t for t in trials if t.state == "interrupted"]
    assert [t.cause for t in stopped] == ["budget"]
    rungs = [0.0, *(rung.device_seconds for rung in stopped[0].rungs)]
    before = spent - stopped[0].device_seconds
    # Whoever passed the limit was told so at the latest at the end of the rung after the next look at it.
    assert before + rungs[-3 if len(rungs) > 3 else 0] <= limit
    code, printed = command(capsys, "status", "toy", "--json")
    budget = json.loads(printed.out)["budget"]
    assert code == 0
    assert budget["spent_hours"] == pytest.approx(spent / 3600)
    done = run(toy_file(**settings, limits={"gpu_hours": 1.0})).trials()
    assert sum(t.state == "complete" and t.job.role == "reference" for t in done) == 1
