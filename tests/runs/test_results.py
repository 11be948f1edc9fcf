from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import pytest
import typer
from rich.console import Console
from synthetic_study import METRIC, make_study, make_trials
from typer.testing import CliRunner

from naslab.errors import InputError
from naslab.runs.commands import results
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank as rank_trials
from naslab.runs.table import columns_of, fitting, footnote, print_ranking, spoken
from naslab.runs.trial import Trial

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"

app = typer.Typer()
for command in (results.rank, results.report, results.export):
    app.command()(command)


def record(ledger: Ledger, trial: Trial) -> None:
    trial_id, _ = ledger.begin(trial.job)
    facts = {key: value for key, value in asdict(trial).items() if key not in ("number", "job", "state")}
    ledger.finish(trial_id, trial.state, facts)


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("results") / "lab.db")
    ledger = Ledger.start(path, make_study())
    with ledger.hold(1):
        for trial in make_trials():
            record(ledger, trial)
    return path


def call(*arguments: str, storage: str):
    return CliRunner().invoke(app, [*arguments, "--storage", storage])


def test_rank_prints_one_json_document(storage):
    done = call("rank", "demo", "--json", storage=storage)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads((SCHEMAS / "rank.json").read_text()))
    assert [row["rank"] for row in document["rows"]] == [1, 2, None]


def test_rank_prints_a_table_with_the_controls(storage):
    done = call("rank", "demo", storage=storage)
    assert done.exit_code == 0
    assert "raw_pixels 70.00" in done.stdout
    assert "floor 80.00" in done.stdout


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 120, 160, 200])
def test_no_width_breaks_a_value(width):
    ranking = rank_trials(make_study(), make_trials())
    console = Console(width=width, record=True, file=io.StringIO())
    print_ranking(ranking, console)
    lines = console.export_text().splitlines()
    numbers = re.compile(r"±?-?\d[\d,]*\.\d+|±\d+")
    whole = {text for row in ranking.rows for column in columns_of(ranking) for text in column.cell(row).split("\n")}
    spoken_numbers = numbers.findall("\n".join([*spoken(ranking), footnote(ranking)]))
    allowed = {number for text in whole for number in numbers.findall(text)} | set(spoken_numbers)
    printed = [number for line in lines for number in numbers.findall(line)]
    assert printed
    assert set(printed) <= allowed, "a number that is printed is a number that is known, whole"
    assert set(spoken_numbers) <= set(printed)
    assert all(line.count("[") == line.count("]") for line in lines), "an interval stands on one line"
    if width >= 40:
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", range(40, 200, 7))
@pytest.mark.parametrize("scale", [1.0, 1e-6, -1e5])
def test_every_column_of_the_table_is_whole_at_any_width(width, scale):
    """The name gives way, and columns do as a whole: no heading and no cell is cut off at the edge."""
    trials = [replace(t, scores={METRIC: scale * t.scores[METRIC]}) if t.scores else t for t in make_trials()]
    ranking = rank_trials(make_study(ranking={"by": "gain"}), trials)
    console = Console(width=width, record=True, file=io.StringIO())
    print_ranking(ranking, console)
    lines = console.export_text().splitlines()[len(spoken(ranking)) :]
    columns = fitting(columns_of(ranking), ranking.rows, width)
    if columns:
        rule = next(index for index, line in enumerate(lines) if set(line.strip()) == {"─"})
        assert len(lines[rule]) <= width
        head = " ".join(lines[rule - 3 : rule]).split()
        body = Counter(" ".join(lines[rule:]).split())
        for column in columns:
            assert set(column.title.split()) <= set(head)
            if column.title != "configuration":
                cells = Counter(word for row in ranking.rows for word in column.cell(row).split())
                assert cells <= body
                body -= cells


def test_rank_csv_has_a_line_for_every_row_and_a_column_for_every_bound(storage):
    lines = list(csv.DictReader(io.StringIO(call("rank", "demo", "--csv", storage=storage).stdout)))
    assert [line["rank"] for line in lines] == ["1", "2", ""]
    assert float(lines[0]["metric_mean"]) == pytest.approx(82.0)
    assert lines[1]["gain_per_device_hour_mean"] == ""
    assert lines[0]["seeds"] == "0 1 2"


def test_rank_refuses_two_formats(storage):
    done = call("rank", "demo", "--csv", "--json", storage=storage)
    assert isinstance(done.exception, InputError)


def test_report_goes_to_the_studys_folder_unless_told_otherwise(storage, tmp_path):
    document = json.loads(call("report", "demo", "--json", storage=storage).stdout)
    jsonschema.validate(document, json.loads((SCHEMAS / "report.json").read_text()))
    assert Path(document["file"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    done = call("report", "demo", "--out", str(tmp_path / "mine.html"), storage=storage)
    assert done.stdout.splitlines()[0] == document["answer"]
    assert (tmp_path / "mine.html").exists()


def test_export_names_the_missing_weights(storage):
    done = call("export", "demo", storage=storage)
    assert isinstance(done.exception, InputError)
    assert "model.safetensors: no such file" in str(done.exception)


@pytest.mark.parametrize("command", ["rank", "report", "export"])
def test_unknown_study_is_one_clear_line(command, storage):
    done = call(command, "nothing-here", storage=storage)
    assert isinstance(done.exception, InputError)
    assert "no study named 'nothing-here'; it has demo" in str(done.exception)
