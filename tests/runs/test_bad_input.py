"""Bad input: exit code 2, one line on standard error that begins with `naslab: `, nothing lost."""

import io
import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
from inline import TOY
from jsonschema import Draft202012Validator

from naslab.runs.cli import run_command_line
from naslab.runs.ledger import Ledger
from naslab.runs.output import out, show_any_letter
from naslab.runs.study import parse_study

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def refused(capsys, *arguments):
    code = run_command_line([str(a) for a in arguments])
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("naslab: ")
    return err


BY_GRADIENT = {"name": "d", "engine": "differentiable", "epochs": 1}
POINT = {"name": "g", "engine": "grid", "vary": {"head": ["cell"]}}
SEARCHED = {"space": {"name": "nasiam", "preset": "tiny"}, "arms": [BY_GRADIENT]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "sede: unknown key"),
        ({"schema": "naslab.study/0"}, "reads 'naslab.study/1'"),
        ({"task": {"epochs": 0}}, "task.epochs"),
        ({"task": {"epoch": 2}}, "task.epoch: unknown key"),
        ({"space": {"name": "nowhere:Space"}}, "cannot import"),
        (
            {"space": {"name": "broken_space:Space"}},
            "cannot import 'broken_space' of 'broken_space:Space': ValueError: no",
        ),
        ({"space": {"name": "slips_space:WithoutTask"}}, "space without_task: its class names no Task; use a subclass"),
        (
            {"space": {"name": "slips_space:WithoutOptions"}},
            "space slips_space:WithoutOptions: its class has Options",
        ),
        ({"space": {"name": "slips_space:WithoutName"}}, "space slips_space:WithoutName: its class has no name"),
        (
            {"space": {"name": "slips_space:ConditionOfText"}},
            "rate: its condition has the text 'ab' for values; write a",
        ),
        ({"device": "cuda"}, "device"),
        (
            {"arms": [{"name": "t", "engine": "optuna", "sampler": "tpe", "trials": 2, "population": 8}]},
            "population: applies only with sampler = evolution or nsga2",
        ),
        (
            {"arms": [{"name": "d", "engine": "differentiable", "epochs": 2, "temperature": [5, 1]}]},
            "temperature: applies only with relaxation = gumbel",
        ),
        ({"space": {"name": "toy_space:Space"}, "task": {"trouble": "csv"}}, "task of space toy: ValueError: row 3"),
        (
            {"space": {"name": "toy_space:Space"}, "task": {"trouble": "negative"}},
            "task of space toy: -3 epochs; use 0",
        ),
        (
            {"space": {"name": "nasiam", "preset": "tiny"}, "task": {"epochs": 1, "dataset": {"name": "cifar10"}}},
            "cifar10 is not there",
        ),
        (
            {
                "space": {"name": "nasiam", "preset": "tiny"},
                "task": {"epochs": 1, "dataset": {"name": "fashion_mnist", "root": "/absent"}},
            },
            "no such file",
        ),
        ({"arms": [BY_GRADIENT]}, "arm d: space toy has no supernet; use an engine: optuna arm"),
        (
            {**SEARCHED, "task": {"epochs": 1, "policy": {"precision": "float16"}}},
            "arm d: task.policy.precision: a search by gradient has no float16; use bfloat16 or float32",
        ),
        (
            {**SEARCHED, "task": {"epochs": 1, "policy": {"accumulation": 2}}},
            "arm d: task.policy.accumulation: a search by gradient takes whole batches; use 1",
        ),
        (
            {**SEARCHED, "task": {"epochs": 1, "batch_size": 64, "dataset": {"name": "embedded", "train": 100}}},
            "arm d: task.batch_size: 64 is more than the 50 training images of its share",
        ),
        (
            {**SEARCHED, "task": {"epochs": 1}, "arms": [{**BY_GRADIENT, "partial_channels": 3}]},
            "arm d: partial_channels: 3 does not divide the cell's width",
        ),
        (
            {"space": {"name": "unready_space:Unchecked"}, "arms": [POINT]},
            "arm g: task of space toy: KeyError: 'columns' (unready_space.py, line ",
        ),
        (
            {"space": {"name": "unready_space:Ungraded"}, "arms": [BY_GRADIENT]},
            "arm d: task of space toy is no GradientTask; use an engine: optuna arm",
        ),
        (
            {"space": {"name": "unready_space:Uncounted"}, "arms": [BY_GRADIENT]},
            "arm d: task of space toy: num_batches: ZeroDivisionError: ",
        ),
        (
            {"space": {"name": "unready_space:Empty"}, "arms": [BY_GRADIENT]},
            "arm d: task of space toy: no batch in a half of the training set",
        ),
    ],
)
def test_a_study_that_cannot_run(toy_file, capsys, changes, message):
    if changes.get("device") == "cuda" and __import__("torch").cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    assert message in refused(capsys, "run", toy_file(**changes), "--storage", "runs.db")


def test_a_supernet_that_needs_real_values_is_not_refused():
    arm = {**BY_GRADIENT, "partial_channels": 2}
    study = parse_study({**TOY, "space": {"name": "unready_space:Graded"}, "arms": [arm]}, "test")
    assert study.make_checked_task(torch.device("cpu")).num_batches() == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument"),
        (["run", "toy.yaml", "--nosuch"], "No such option"),
        (["run", "absent.yaml"], "no such study file"),
        (["run", "toy.yaml", "--slots", "0"], "--slots"),
        (["run", "toy.yaml", "--set", "task.epochs"], "a.b=value"),
        (["status", "toy", "--storage", "absent.db"], "no such storage"),
        (["rank", "toy", "--storage", "absent.db"], "no such storage"),
        (["frobnicate"], "No such command"),
        (["profile", "timm:resnet19"], "resnet19"),
        (["profile", "space:nasnet"], "nasnet"),
    ],
)
def test_a_command_line_that_cannot_be_taken(toy_file, capsys, arguments, message):
    toy_file()
    assert message in refused(capsys, *arguments)


def foreign_sqlite():
    with sqlite3.connect("runs.db") as connection:
        connection.execute("create table mine (x integer)")


def foreign_sqlite_with_our_names():
    with sqlite3.connect("runs.db") as connection:
        for name in ("studies", "trials", "version_info"):
            connection.execute(f"create table {name} (x integer)")


def text_file():
    Path("runs.db").write_text("my thesis\n" * 100)


def other_optuna_study():
    optuna.create_study(storage="sqlite:///runs.db", study_name="toy")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign_sqlite, "an SQLite file of something else"),
        (foreign_sqlite_with_our_names, "not a naslab storage"),
        (text_file, "not a naslab storage"),
        (other_optuna_study, "was not made by naslab"),
    ],
)
def test_a_storage_that_is_not_ours_is_left_alone(toy_file, capsys, make, message):
    path = toy_file()
    make()
    before = Path("runs.db").read_bytes()
    assert message in refused(capsys, "run", path, "--storage", "runs.db")
    if make is not other_optuna_study:
        assert Path("runs.db").read_bytes() == before


def test_a_storage_that_is_a_folder_or_lacks_its_package_says_so(toy_file, capsys, monkeypatch):
    path = toy_file()
    Path("runs").mkdir()
    assert "runs: a folder" in refused(capsys, "run", path, "--storage", "runs")
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    assert "package psycopg2" in refused(capsys, "run", path, "--storage", "postgresql+psycopg2://me:secret@host/db")


@pytest.mark.parametrize("storage", ["/proc/nowhere/runs.db", "toy.yaml/runs.db", "nosuch://host/db"])
def test_a_storage_that_cannot_be_made(toy_file, capsys, storage):
    refused(capsys, "run", toy_file(), "--storage", storage)


def test_a_changed_study_is_refused_and_a_ledger_of_another_version_too(toy_file, inline, capsys):
    assert run_command_line(["run", str(toy_file(arms=[])), "--storage", "runs.db"]) == 0
    capsys.readouterr()
    assert "task changed" in refused(capsys, "run", toy_file(arms=[], task={"epochs": 3}), "--storage", "runs.db")
    assert "no study named 'other'" in refused(capsys, "rank", "other", "--storage", "runs.db")
    ledger = Ledger.open("runs.db", "toy")
    number = len(ledger.trials())
    study = optuna.load_study(study_name="toy", storage="sqlite:///runs.db")
    study.set_user_attr("naslab", {**study.user_attrs["naslab"], "schema": "naslab.ledger/0"})
    assert "naslab.ledger/0" in refused(capsys, "status", "toy", "--storage", "runs.db")
    kept = optuna.get_all_study_summaries("sqlite:///runs.db")
    assert sum(summary.n_trials for summary in kept) == number


def test_a_full_disk_is_one_line_and_loses_nothing(toy_file):
    """The size of files is limited for real, so that the storage cannot grow."""
    path = toy_file(task={"epochs": 2, "seconds": 0.01})
    command = [sys.executable, "-m", "naslab", "run", str(path), "--storage", "runs.db"]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    full = subprocess.run(
        [sys.executable, "-c", f"import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
         f"from naslab.runs.cli import run_command_line; sys.exit(run_command_line({command[3:]!r}))"],
        capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert full.returncode == 2
    assert full.stderr.splitlines()[-1].startswith("naslab: ")
    assert "Traceback" not in full.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0
    complete = [t.job.key for t in Ledger.open("runs.db", "toy").trials() if t.state == "complete"]
    assert len(complete) == len(set(complete))


def document(capsys, *arguments):
    assert run_command_line([str(a) for a in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_documents_are_one_and_as_published(toy_file, inline, capsys):
    path = toy_file(arms=[])
    for arguments, schema in (
        (("run", path, "--dry-run"), "run"),
        (("run", path), "run"),
        (("status", path), "status"),
        (("status", "toy"), "status"),
        (("rank", "toy"), "rank"),
    ):
        found = document(capsys, *arguments, "--storage", "runs.db", "--json")
        Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_text())).validate(found)
    assert found["rows"][0]["reference"]


def test_a_dry_run_writes_nothing(toy_file, capsys):
    document(capsys, "run", toy_file(), "--storage", "runs.db", "--dry-run", "--json")
    assert sorted(p.name for p in Path().iterdir()) == ["toy.yaml"]


def test_letters_that_a_terminal_lacks_are_shown_by_their_numbers(monkeypatch):
    """A ranking has ± and the label words of its configurations; a terminal in Latin-1 or ASCII has not."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    show_any_letter()
    out.print("±很😀")
    sys.stdout.flush()
    assert shown.getvalue() == rb"\xb1\u5f88\U0001f600" + b"\n"
