"""What the pages on clusters, storages and loggers print may be typed: study files load, commands and options exist."""

import re
import shlex
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from inline import TOY

from naslab.runs.cli import app, run_command_line
from naslab.runs.executors.options import Local
from naslab.runs.study import parse_study

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("clusters", "storage", "loggers", "studies")]
TEXT = {page.stem: page.read_text() for page in PAGES}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def blocks(text, kind):
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def quoted(text):
    """What stands in backticks within sentences."""
    return re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def studies(text):
    """Each study file, or part of one, that a page prints; a block may have several, each after a comment."""
    printed = [part for block in blocks(text, "yaml") for part in re.split(r"(?m)^# or.*\n", block)]
    return printed + [part for part in quoted(text) if re.match("(executor|loggers): .", part)]


def commands(text):
    """Each command of naslab that a page prints, without what a reader has to put in for `...`."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    for line in lines + quoted(text):
        if found := re.match(r"(?:NASLAB_\w+=\S+ )*naslab ([a-z].*)", line.strip()):
            yield shlex.split(found[1], comments=True)


CLUSTERS = ["clusters", "storage", "loggers"]
STUDIES = [(page, part) for page in CLUSTERS for part in studies(TEXT[page])]
COMMANDS = [(page, words) for page in TEXT for words in commands(TEXT[page])]


LACKING: Any = next(kind for kind in typer.BadParameter.__subclasses__() if kind.__name__ == "MissingParameter")


def test_something_is_printed():
    assert len(STUDIES) >= 8
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize(("page", "part"), STUDIES)
def test_a_printed_study_loads_and_says_what_it_would_do(page, part, toy_file, capsys):
    """On this machine: without its GPUs, and without the data, which a cluster's workers have."""
    given = {"device": "auto", **yaml.safe_load(part)}
    study = parse_study({**TOY, **given}, page)
    here = (
        {"device": "cpu", "executor": {**given.get("executor", {}), "gpus": None}}
        if isinstance(study.executor, Local)
        else {}
    )
    code = run_command_line(["run", str(toy_file(**{**given, **here})), "--dry-run"])
    said = capsys.readouterr().err
    assert code == 0 or (code == 2 and "is not installed; pip install 'naslab[" in said), said


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=str)
def test_a_printed_command_and_its_options_exist(page, words):
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, page
        command, words = command.commands[words[0]], words[1:]
    with suppress(LACKING):  # where a sentence names the command and an option alone
        assert not command.make_context(command.name, words).args


@pytest.mark.parametrize("page", TEXT)
def test_extras_scripts_and_variables_that_a_page_names_exist(page):
    for extra in re.findall(r"naslab\[(\w+)\]", TEXT[page]):
        assert extra in EXTRAS
    for script in re.findall(r"python (benchmarks/\w+\.py)", TEXT[page]):
        assert (ROOT / script).exists()
    code = "".join(
        path.read_text() for folder in ("runs", "search_spaces", "efficiency") for path in (ROOT / folder).rglob("*.py")
    )
    for variable in re.findall(r"NASLAB_[A-Z_]+", TEXT[page]):
        assert variable in code
