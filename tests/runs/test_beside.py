"""Several studies in one ranking: what may stand side by side, and the one line that says why something may not."""

import json
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from toy_space import Space, ToyOptions, ToyTask

import naslab
from naslab.errors import InputError
from naslab.runs.beside import load_beside
from naslab.runs.cli import run_command_line
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.runs.report import build_report
from naslab.runs.study import load_study
from naslab.runs.trial import Job

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


class OtherTask(ToyTask):
    """Scored like the toy, whatever the recipe; `data` is what it is scored on."""

    class Options(ToyOptions):
        data: str = "toys"

    @property
    def benchmark(self):
        return {"metric": self.metric, "dataset": {"name": self.options.data, "test": 100}}


class Other(Space):
    """Another system on the same benchmark."""

    name = "other"
    Task = OtherTask


def record(name, toy_file, scores, *, device="cpu", metric="score", task=None, **changes):
    """A study whose reference and one point have the given mean scores, written into the ledger by hand."""
    sweep = {"name": "cells", "engine": "grid", "vary": {"cell": [["good"] * 4]}}
    space = {"name": "test_beside:Other"}
    path = toy_file(name=name, space=space, arms=[sweep], task=task or {}, random_architectures=0, **changes)
    study = load_study(path)
    ledger = Ledger.start("runs.db", study)
    configurations = {"reference": study.search_space.reference, "final": study.grids["cells"][0]}
    with ledger.hold(1):
        for (role, configuration), score in zip(configurations.items(), scores, strict=True):
            for seed in study.seeds:
                arm = "cells" if role == "final" else None
                key = f"{role}/{configuration.digest}/seed{seed}"
                number, _ = ledger.begin(Job(key, role, role, seed, configuration, arm))
                facts = {"seconds": {"train": 3.6}, "device": device, "scores": {metric: score + 0.1 * seed}}
                ledger.finish(number, "complete", {**facts, "result": {"metric": metric}})
    return ledger


def test_rows_of_another_study_stand_in_the_ranking(toy_file, capsys):
    record("theirs", toy_file, (30.0, 60.0))
    ledger = record("mine", toy_file, (40.0, 50.0), beside=["theirs"])
    ranking = rank(ledger.study, ledger.trials(), load_beside(ledger))
    assert ranking.floor == pytest.approx(40.05), "the floor is this study's reference"
    rows = [(row.study, row.reference, row.rank) for row in ranking.rows]
    assert rows == [("theirs", False, 1), ("mine", False, 2), ("mine", True, 3), ("theirs", True, None)]
    assert ranking.reference.study == "mine"
    best = ranking.rows[0]
    assert best.name.startswith("theirs: cells cell=good")
    assert best.gain.mean == pytest.approx(20 / 0.001), "over this study's reference"
    assert run_command_line(["rank", "mine", "--storage", "runs.db", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads((SCHEMAS / "rank.json").read_text())).validate(document)
    assert document["beside"] == ["theirs"]
    assert [row["study"] for row in document["rows"]] == ["theirs", "mine", "mine", "theirs"]
    alone = rank(ledger.study, ledger.trials())
    assert {row.study for row in alone.rows} == {"mine"}
    report = build_report(ledger.study, ledger.trials(), load_beside(ledger))
    assert "theirs: cells" in report.page
    assert "theirs: 2, 3" in report.page, "trials of the other ledger are not links into this one"
    assert run_command_line(["rank", "theirs", "--beside", "mine", "--storage", "runs.db", "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 5


def test_studies_are_compared_from_python_by_name_or_path(toy_file, tmp_path):
    record("theirs", toy_file, (30.0, 60.0))
    shutil.copy("toy.yaml", "theirs.yaml")
    record("mine", toy_file, (40.0, 50.0))
    by_name = naslab.compare("mine", "theirs", storage="runs.db")
    assert by_name.beside == ("theirs",)
    assert {row.study for row in by_name.rows} == {"mine", "theirs"}
    assert naslab.compare("toy.yaml", tmp_path / "theirs.yaml", storage="runs.db").to_dict() == by_name.to_dict()
    with pytest.raises(InputError, match="no study named 'nobody'"):
        naslab.compare("mine", "nobody", storage="runs.db")


def test_the_recipe_may_differ(toy_file):
    record("theirs", toy_file, (30.0, 60.0), task={"epochs": 9})
    ledger = record("mine", toy_file, (40.0, 50.0))
    assert len(rank(ledger.study, ledger.trials(), load_beside(ledger, ["theirs"])).rows) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "top1"}, "theirs cannot be ranked with mine: metric is 'top1' there and 'score' here"),
        ({"device": "cuda NVIDIA H100"}, "device is 'cuda NVIDIA H100' there and 'cpu' here"),
        ({"task": {"data": "cars"}}, "benchmark.dataset.name is 'cars' there and 'toys' here"),
    ],
)
def test_what_means_something_else_is_refused_in_one_line(toy_file, capsys, changes, message):
    record("theirs", toy_file, (30.0, 60.0), **changes)
    record("mine", toy_file, (40.0, 50.0))
    assert run_command_line(["rank", "mine", "--beside", "theirs", "--storage", "runs.db"]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""


def test_a_study_that_has_not_run_is_named(toy_file, capsys):
    record("mine", toy_file, (40.0, 50.0))
    with Ledger.start("runs.db", load_study(toy_file(name="empty", arms=[]))).hold(1):
        pass
    for name, message in (
        ("absent", "beside: absent has not run"),
        ("empty", "beside: empty has not run: none of its configurations has finished yet"),
        ("mine", "beside: mine is the study itself"),
    ):
        assert run_command_line(["rank", "mine", "--beside", name, "--storage", "runs.db"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1
    assert run_command_line(["run", str(toy_file(name="mine", beside=["mine"]))]) == 2
    assert "'mine' is this study" in capsys.readouterr().err
