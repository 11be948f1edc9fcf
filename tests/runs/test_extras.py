"""A package that is missing is one line that says how it is installed, and nothing has been started or written."""

import sys
from pathlib import Path

import pytest

from naslab.runs.cli import run_command_line

LACKS = {
    "ray": (["executor.kind=ray"], ["ray"]),
    "slurm": (["executor={kind: slurm, cluster: local}"], ["submitit"]),
    "tensorboard": (["loggers=[tensorboard]"], ["tensorboard"]),
    "mlflow": (["loggers=[mlflow]"], ["mlflow"]),
    "wandb": (["loggers=[{kind: wandb}]"], ["wandb"]),
    "trackio": (["loggers=[trackio]"], ["trackio"]),
    "postgresql": ([], ["psycopg2", "psycopg"]),
}
"""By extra: what a study asks for, and the packages that it then needs; any of them will do."""


@pytest.mark.parametrize("extra", LACKS)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_extra_that_is_not_installed_is_named_before_anything_is_done(extra, more, toy_file, monkeypatch, capsys):
    asked, packages = LACKS[extra]
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    path = toy_file(arms=[])
    place = "postgresql://me:hunter2@127.0.0.1:1/lab" if extra == "postgresql" else "runs.db"
    command = ["run", str(path), *(f"--set={one}" for one in asked), "--storage", place, *more]
    code, said = run_command_line(command), capsys.readouterr()
    if extra == "postgresql" and more and code == 0:
        return  # a dry run may leave the storage alone
    assert code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("naslab: ")
    assert f"{packages[0]} is not installed; pip install 'naslab[{extra}]'" in said.err
    assert "hunter2" not in said.err
    assert [one.name for one in Path().iterdir()] == [path.name]
