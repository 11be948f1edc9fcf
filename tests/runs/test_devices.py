"""`naslab devices` and `naslab devices calibrate`: documents, tables, files and errors."""

import json
from pathlib import Path

import jsonschema
import pytest

from naslab.efficiency.gpus import GPUS
from naslab.runs.cli import run_command_line
from naslab.runs.output import out

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("NASLAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def document(capsys, schema, *arguments):
    assert run_command_line([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, json.loads((SCHEMAS / f"{schema}.json").read_text()))
    return found


def refused(capsys, *arguments):
    assert run_command_line(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_the_bare_command_lists_what_is_here_and_what_is_known(capsys):
    found = document(capsys, "devices", "devices")
    assert found["devices"][0]["device"] == "cpu"
    assert found["devices"][0]["calibrated"] is None
    assert [row["name"] for row in found["known"]] == list(GPUS)
    assert all(set(row["peak_flops"]) < set(row["sources"]) for row in found["known"])
    assert {row["price_per_hour"] for row in found["known"]} == {None}


@pytest.mark.parametrize("width", [80, 200])
def test_tables_cut_no_value(width, capsys, monkeypatch):
    monkeypatch.setattr(out, "width", width)
    assert run_command_line(["devices"]) == 0
    shown = capsys.readouterr().out
    words = shown.split()
    assert "…" not in shown
    assert "..." not in shown
    for name, gpu in GPUS.items():
        assert words.count(name) == 2
        figures = [*(peak / 1e12 for peak in gpu.peak_flops.values()), gpu.memory_bytes / 2**30, gpu.power_watts]
        assert {f"{figure:g}" for figure in figures} <= {word.strip("~") for word in words}
    assert "naslab devices calibrate" in shown


def test_prices_of_the_user_are_shown(capsys, home):
    (home / "config" / "naslab").mkdir(parents=True)
    (home / "config" / "naslab" / "prices.yaml").write_text("h100: 2.75\n")
    found = document(capsys, "devices", "devices")
    assert {row["name"]: row["price_per_hour"] for row in found["known"]}["h100-sxm"] == 2.75
    (home / "config" / "naslab" / "prices.yaml").write_text("h100: much\n")
    assert "prices.yaml: the price of h100 is 'much'" in refused(capsys, "devices")


def test_calibrate_measures_saves_and_is_known_afterwards(capsys, home):
    found = document(capsys, "calibrate", "devices", "calibrate", "--device", "cpu", "--seconds", "0.5")
    assert Path(found["file"]).is_relative_to(home / "cache")
    assert json.loads(Path(found["file"]).read_text()) == {k: v for k, v in found.items() if k not in ("file", "steps")}
    assert document(capsys, "devices", "devices")["devices"][0]["calibrated"] == found["provenance"]["utc"]

    assert run_command_line(["devices", "calibrate", "--device", "cpu", "--seconds", "0.5"]) == 0
    shown = capsys.readouterr().out
    assert "GFLOP/s" in shown
    assert found["file"] in shown.replace("\n", "")

    Path(found["file"]).write_text("half a docu")
    assert found["file"] in refused(capsys, "devices")


def test_wrong_command_lines(capsys):
    assert "write it after the subcommand" in refused(capsys, "devices", "--json", "calibrate")
    assert "device: 'tpu' is unknown" in refused(capsys, "devices", "calibrate", "--device", "tpu")
    assert "nonsense" in refused(capsys, "devices", "nonsense")
    assert "seconds" in refused(capsys, "devices", "calibrate", "--seconds", "0")


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    (tmp_path / "naslab").write_text("a file where a folder has to be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("naslab.efficiency.calibration.calibrate", lambda *_, **__: pytest.fail("measured"))
    assert run_command_line(["devices", "calibrate", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert said.count("\n") == 1


def test_only_a_study_goes_on_after_an_interruption(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("naslab.efficiency.calibration.calibrate", interrupted)
    assert run_command_line(["devices", "calibrate", "--device", "cpu"]) == 130
    assert capsys.readouterr().err == "naslab: interrupted\n"
