"""Sweeps in a study: what is run, what is ranked, what may grow, and what is refused before anything runs."""

import json
from collections import Counter
from pathlib import Path

import pytest
from inline import run_here
from jsonschema import Draft202012Validator

from naslab.errors import InputError
from naslab.runs.cli import run_command_line
from naslab.runs.ledger import Ledger
from naslab.runs.past import Past
from naslab.runs.plan import expected_jobs, expected_trainings, plan_next
from naslab.runs.ranking import rank
from naslab.runs.report import build_report
from naslab.runs.study import load_study

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
GOOD, FAIR, POOR = (["good"] * 4, ["fair"] * 4, ["poor"] * 4)
SWEEP = {"name": "cells", "engine": "grid", "vary": {"cell": [GOOD, POOR]}, "base": {"head": "cell"}}


def run(path):
    return run_here(Ledger.start("runs.db", load_study(path)))


def test_every_point_is_trained_with_every_seed_and_ranked(toy_file):
    ledger = run(toy_file(arms=[SWEEP], random_architectures=0))
    trials = ledger.trials()
    roles = Counter(t.job.role for t in trials)
    assert roles == {"control": 3, "reference": 2, "final": 4, "profile": 3}
    controls = ledger.study.make_task(__import__("torch").device("cpu")).controls()
    assert expected_jobs(ledger.study, controls) == roles
    assert expected_trainings(ledger.study) == 6
    ranking = rank(ledger.study, trials)
    rows = {tuple(row.configuration.chain("cell")): row for row in ranking.rows if not row.reference}
    assert rows.keys() == {tuple(GOOD), tuple(POOR)}
    for row in rows.values():
        assert (row.arms, row.seeds, row.search_hours) == (("cells",), (0, 1), 0.0)
    assert rows[tuple(GOOD)].name.startswith("cells cell=good·good·good·good ")
    assert rows[tuple(POOR)].rank is None
    for i in range(len(trials)):
        assert plan_next(Past(ledger.study, "score", trials[:i]), controls).job is not None
    report = build_report(ledger.study, trials)
    assert {s.id: s.empty for s in report.sections}["health"]
    assert not any("luck" in one.text for one in report.answer.findings)


def test_a_point_that_is_the_reference_is_not_run_twice(toy_file):
    sweep = {"name": "cells", "engine": "grid", "vary": {"cell": [FAIR, GOOD]}}
    ledger = run(toy_file(arms=[sweep], random_architectures=0))
    assert Counter(t.job.role for t in ledger.trials()) == {"control": 3, "reference": 2, "final": 2, "profile": 2}
    reference = rank(ledger.study, ledger.trials()).reference
    assert reference.arms == ("cells",)
    assert reference.name.startswith("reference (published toy) + cells cell=fair·fair·fair·fair ")


def test_points_shared_by_two_grids_are_run_once_and_named_after_both(toy_file):
    other = {**SWEEP, "name": "again", "vary": {"cell": [GOOD]}}
    ledger = run(toy_file(arms=[SWEEP, other], random_architectures=0, seeds=[0]))
    assert Counter(t.job.role for t in ledger.trials())["final"] == 2
    assert ("again", "cells") in {row.arms for row in rank(ledger.study, ledger.trials()).rows}


def test_a_grid_may_gain_values_and_nothing_else(toy_file):
    arms = {"arms": [SWEEP], "random_architectures": 0, "seeds": [0]}
    first = {t.job.key for t in run(toy_file(**arms)).trials()}
    grown = {**SWEEP, "vary": {"cell": [POOR, FAIR, GOOD]}}
    again = run(toy_file(**{**arms, "arms": [grown]})).trials()
    assert len(again) == len(first) + 2, "one training and one profile more"
    for changed in (
        {**grown, "vary": {"cell": [GOOD, FAIR]}},
        {**grown, "vary": {**grown["vary"], "head": ["cell"]}, "base": {}},
        {**grown, "base": {}},
    ):
        with pytest.raises(InputError, match="arm 'cells' has results and may not change") as caught:
            Ledger.start("runs.db", load_study(toy_file(**{**arms, "arms": [changed]})))
        assert "values of a grid may grow" in str(caught.value)


def test_a_grid_stands_beside_a_search(toy_file):
    search = {"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 3}
    ledger = run(toy_file(arms=[search, SWEEP], seeds=[0]))
    roles = Counter(t.job.role for t in ledger.trials())
    assert (roles["proposal"], roles["random"]) == (3, 2)
    assert 2 <= roles["final"] <= 3
    arms = {arm for row in rank(ledger.study, ledger.trials()).rows for arm in row.arms}
    assert arms == {"tpe", "cells"}


@pytest.mark.parametrize("flag", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({**SWEEP, "vary": {"sell": [GOOD]}}, "arm cells: vary.sell: unknown parameter of space toy"),
        ({**SWEEP, "vary": {"cell": [["best"] * 4]}}, "arm cells: point cell=["),
        ({**SWEEP, "vary": {"cell": []}}, "arms.0.grid.vary.cell"),
        ({**SWEEP, "trials": 3}, "arms.0.grid.trials: unknown key"),
    ],
)
def test_a_bad_grid_is_one_line_before_anything_runs(toy_file, capsys, sweep, message, flag):
    path = toy_file(arms=[sweep])
    assert run_command_line(["run", str(path), "--storage", "runs.db", *flag]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert sorted(p.name for p in Path().iterdir()) == ["toy.yaml"], "nothing was written"


def test_a_dry_run_counts_the_points(toy_file, capsys):
    path = toy_file(arms=[SWEEP], random_architectures=0)
    assert run_command_line(["run", str(path), "--dry-run", "--json", "--storage", "runs.db"]) == 0
    document = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads((SCHEMAS / "run.json").read_text())).validate(document)
    assert document["jobs"] == {"control": 3, "reference": 2, "final": 4, "profile": 3}
