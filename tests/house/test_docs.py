import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from naslab.runs.cli import app, run_command_line

ROOT = Path(__file__).parents[2]
PACKAGES = ("kernels", "efficiency", "search_spaces", "nas", "runs")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_tree_names_every_file_and_no_other(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import tree

    page = (ROOT / "docs" / "architecture.md").read_text()
    assert page == tree.page_with_tree(page), "run python docs/tree.py"
    assert all(line.split()[1:] for line in tree.tree().splitlines() if line.startswith("  ")), "a file says nothing"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_in_the_readme_exist():
    commands = {command.callback.__name__ for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    named = set(re.findall(r"`naslab (\w+)", (ROOT / "README.md").read_text()))
    assert named == commands


def test_python_in_the_readme_compiles_and_its_names_exist():
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    for node in ast.parse(block).body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            exec(compile(ast.Module([node], []), "README.md", "exec"), {})


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "schemas").glob("*.json")), ids=lambda p: p.name)
def test_schemas_are_schemas(path):
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["title"]
    assert schema["$id"]


def test_the_example_page_is_the_example():
    page = (ROOT / "docs" / "add-a-space.md").read_text()
    for name in ("digits_mlp.py", "digits_mlp.yaml"):
        assert (ROOT / "examples" / name).read_text() in page


def test_packages_are_typed():
    assert all((ROOT / package / "py.typed").exists() for package in PACKAGES)


def test_measured_tables_are_what_the_result_files_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    for page, mark, make in tables.PAGES:
        assert page.read_text() == tables.page_with(page, mark, make()), "run python benchmarks/tables.py"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda p: p.name)
def test_result_files_say_where_they_come_from(path):
    result = json.loads(path.read_text())
    assert result["command"].startswith("python ")
    for key in ("device", "torch", "python", "utc", "platform"):
        assert result["provenance"][key]


def test_the_import_order_can_fail(tmp_path):
    for folder in ("naslab", *(f"naslab/{package}" for package in PACKAGES)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())

    def lint():
        command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
        return subprocess.run([sys.executable, "-c", command], cwd=tmp_path, capture_output=True).returncode

    assert lint() == 0
    (tmp_path / "naslab" / "kernels" / "bad.py").write_text("import naslab.runs\n")
    assert lint() != 0


def test_the_worked_example_runs(tmp_path, monkeypatch, capsys):
    """Its search in a process of its own, as the module of its space lies in the current folder."""
    storage = ["--storage", str(tmp_path / "naslab.db"), "--json"]
    search = ["run", "digits_mlp.yaml", "--set", "arms.0.trials=2", "--set", "random_architectures=1"]
    command = [sys.executable, "-m", "naslab", *search, *storage]
    done = subprocess.run(command, cwd=ROOT / "examples", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"].startswith("naslab.run/")
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    assert run_command_line(["rank", "digits_mlp", *storage]) == 0
    ranking = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads((ROOT / "docs/schemas/rank.json").read_text())).validate(ranking)
    assert {row["reference"] for row in ranking["rows"]} == {True, False}
    assert all(30 < row["metric"]["mean"] < 100 for row in ranking["rows"])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1,2,three", "task.data: {} is not a table of numbers: "),
        ("1,2,3", "task.data: {} has 3 columns, not a class and 49 features"),
        (",".join(["1"] * 50), "task.data: {} needs 5 rows or more for its splits, not 1"),
    ],
)
def test_the_worked_example_says_in_one_line_what_is_wrong_with_a_table(tmp_path, monkeypatch, capsys, rows, words):
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    table = tmp_path / "mine.csv"
    table.write_text(rows)
    assert run_command_line(["run", "digits_mlp.yaml", "--dry-run", "--set", f"task.data={table}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"naslab: {words.format(table)}")
    assert error.count("\n") == 1
