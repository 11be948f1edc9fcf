"""Equal finished trials of another study: taken over where the study file says so, and nowhere in silence."""

import json

import pytest
from inline import run_here

from naslab.errors import InputError
from naslab.runs.cli import run_command_line
from naslab.runs.export import export
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.runs.reuse import Circumstances, reusable
from naslab.runs.status import status
from naslab.runs.study import load_study

POINTS = {"cell": [["good"] * 4, ["poor"] * 4], "head": ["cell"]}


def study(toy_file, name, points=POINTS, **changes):
    grid = {"name": "g", "engine": "grid", "vary": points}
    return load_study(toy_file(name=name, arms=[grid], random_architectures=0, **changes))


def run(toy_file, name, points=POINTS, **changes):
    return run_here(Ledger.start("runs.db", study(toy_file, name, points, **changes)))


def trained(ledger):
    return {(t.job.role, t.job.configuration, t.job.seed): t for t in ledger.trials() if t.job.role in RANKED}


RANKED = ("reference", "final")


def test_equal_trials_cost_nothing_and_count_in_full(toy_file, tmp_path):
    theirs = run(toy_file, "theirs")
    more = {**POINTS, "cell": [*POINTS["cell"], ["fair", "good", "good", "good"]]}
    mine = run(toy_file, "mine", more, reuse=["theirs"])
    before, after = trained(theirs), trained(mine)
    assert before.keys() < after.keys()
    for key, trial in after.items():
        if key not in before:
            assert trial.reused is None
            assert trial.device_seconds > 0
            continue
        source = before[key]
        assert trial.reused == {"study": "theirs", "trial": source.number}
        assert trial.device_seconds == 0
        assert (trial.run_seconds, trial.run_core_seconds) == pytest.approx(
            (source.run_seconds, source.run_core_seconds)
        )
        assert trial.scores == source.scores
    rows = {row.configuration: row for row in rank(theirs.study, theirs.trials()).rows}
    ranking = rank(mine.study, mine.trials())
    for row in ranking.rows:
        if row.configuration in rows:
            there = rows[row.configuration]
            assert row.device_hours.mean == pytest.approx(there.device_hours.mean)
            assert row.score.mean == pytest.approx(there.score.mean)
            assert row.hours_to_floor is None or row.hours_to_floor.mean == pytest.approx(there.hours_to_floor.mean)
    assert any("taken over from theirs (reuse)" in line for line in ranking.doubts)
    document = status(mine)
    (said,) = document["reused"]
    controls = [t for t in theirs.trials() if t.job.role == "control"]
    assert said["study"] == "theirs"
    assert len(said["trials"]) == len(before) + len(controls)
    assert document["budget"]["spent_hours"] * 3600 == pytest.approx(
        sum(t.device_seconds for t in mine.trials() if t.reused is None)
    )
    (one,) = export(mine.study, mine.trials(), mine.files, tmp_path / "out")
    assert (one.folder / "model.safetensors").is_file()


def test_what_was_taken_over_may_be_taken_over_again_and_names_where_it_ran(toy_file):
    run(toy_file, "first")
    run(toy_file, "second", reuse=["first"])
    third = run(toy_file, "third", reuse=["second"])
    assert {t.reused["study"] for t in trained(third).values()} == {"first"}
    assert all(t.run_seconds > 0 for t in trained(third).values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": {"epochs": 3}}, "another task"),
        ({"constraints": {"max_params": 10**6}}, "another constraints"),
        ({"space": {"name": "toy_space:Sized"}}, "another space"),
    ],
)
def test_what_differs_runs_anew_and_the_reason_is_said(toy_file, changes, words):
    theirs = run(toy_file, "theirs")
    mine = run(toy_file, "mine", reuse=["theirs"], **changes)
    assert all(t.reused is None for t in mine.trials())
    one = theirs.trials()[0]
    here = Circumstances(one.device, one.threads, one.result["made_with"])
    _, (line,) = reusable(mine.url, mine.study, here)
    assert line.startswith("reuse: 0 of the ")
    assert words in line


@pytest.mark.parametrize("fact", ["naslab", "torch", "code", "data"])
def test_other_versions_code_or_data_are_not_equal(toy_file, monkeypatch, fact):
    theirs = run(toy_file, "theirs")
    made = theirs.trials()[0].result["made_with"]
    monkeypatch.setattr("naslab.runs.facts.made_with", lambda task: {**made, fact: "other"})
    assert all(t.reused is None for t in run(toy_file, "mine", reuse=["theirs"]).trials())


def test_other_seeds_run_anew(toy_file):
    run(toy_file, "theirs", seeds=[0, 1])
    mine = run(toy_file, "mine", seeds=[1, 2], reuse=["theirs"])
    assert {seed: t.reused is not None for (_, _, seed), t in trained(mine).items()} == {1: True, 2: False}


def test_without_its_weights_a_trial_is_trained_again(toy_file):
    theirs = run(toy_file, "theirs")
    for path in theirs.files.rglob("model.safetensors"):
        path.unlink()
    mine = run(toy_file, "mine", reuse=["theirs"])
    assert all(t.reused is None for t in trained(mine).values())


def test_a_dry_run_lists_what_would_be_taken_over(toy_file, tmp_path, capsys):
    run(toy_file, "theirs")
    more = {**POINTS, "cell": [*POINTS["cell"], ["fair", "good", "good", "good"]]}
    mine = study(toy_file, "mine", more, reuse=["theirs"])
    command = ["run", str(tmp_path / "toy.yaml"), "--storage", "runs.db", "--dry-run"]
    assert run_command_line([*command, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["reuse"]
    assert run_command_line(command) == 0
    said = capsys.readouterr().out
    ledger = run_here(Ledger.start("runs.db", mine))
    taken = [{"job": t.job.key, **t.reused} for t in ledger.trials() if t.reused]
    assert sorted(planned["trials"], key=str) == sorted(taken, key=str)
    assert all(f"{one['job']}: trial {one['trial']} of theirs" in said for one in taken)
    assert planned["lines"][0].startswith("reuse: ")
    assert run_command_line([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reuse"]["trials"] == []


def test_a_study_that_is_not_there_or_is_this_one_is_refused(toy_file):
    with pytest.raises(InputError, match="no study named 'nobody'"):
        run(toy_file, "mine", reuse=["nobody"])
    with pytest.raises(InputError, match="reuse: 'mine' is this study"):
        study(toy_file, "mine", reuse=["mine"])


def test_searches_take_over_what_is_the_same_search(toy_file):
    arm = {"name": "random", "engine": "optuna", "sampler": "random", "trials": 3}
    for name, more in (("theirs", {}), ("mine", {"reuse": ["theirs"]})):
        ledger = run_here(Ledger.start("runs.db", load_study(toy_file(name=name, arms=[arm], seeds=[0], **more))))
    assert all(t.reused for t in ledger.trials() if t.job.role != "profile")
    assert rank(ledger.study, ledger.trials()).arms[0].search_hours > 0


def test_the_folder_of_the_data_is_part_of_what_is_equal(tmp_path):
    from naslab.runs.made_with import _facts

    (tmp_path / "a.csv").write_text("1")
    before = list(_facts(tmp_path))
    (tmp_path / "b.csv").write_text("1")
    assert list(_facts(tmp_path)) != before
    assert list(_facts("no path")) == list(_facts(tmp_path / "absent")) == []
