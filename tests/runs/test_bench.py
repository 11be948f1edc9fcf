import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from naslab.efficiency import kernel_table
from naslab.runs.cli import run_command_line

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "bench.json"
QUICK = ("bench", "kernels", "--kernel", "patch_loss", "--no-compile", "--max-seconds", "0.1", "--device", "cpu")


@pytest.fixture(autouse=True)
def small_copy(monkeypatch):
    monkeypatch.setattr(kernel_table, "COPIED_BYTES", 2**20)


def document(capsys):
    assert run_command_line([*QUICK, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_document_is_as_published(capsys):
    table = document(capsys)
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(table)
    assert all(row["correct"] and row["eager_ms"] > 0 and row["ours_ms"] > 0 for row in table["rows"])
    assert all(row["share"] == pytest.approx(row["limit_ms"] / row["ours_ms"]) for row in table["rows"])
    assert all(row["compile_ms"] is None for row in table["rows"])


def test_a_wrong_kernel_gets_no_time(capsys, monkeypatch):
    monkeypatch.setattr(kernel_table, "TOLERANCE", dict.fromkeys(kernel_table.TOLERANCE, -1.0))
    for row in document(capsys)["rows"]:
        assert not row["correct"]
        assert row["eager_ms"] is row["ours_ms"] is row["share"] is None


def test_an_unknown_kernel_is_named(capsys):
    assert run_command_line(["bench", "kernels", "--kernel", "none", "--device", "cpu"]) == 2
    assert "'none' is unknown" in capsys.readouterr().err
