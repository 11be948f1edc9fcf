from pathlib import Path

import pytest

from naslab.errors import InputError
from naslab.runs.cli import run_command_line
from naslab.runs.shipped import find_study_file, shipped_studies
from naslab.runs.study import load_study


def test_the_folders_studies_ship():
    assert "quickstart" in shipped_studies()
    assert shipped_studies() == sorted(path.stem for path in (Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_is_valid_and_says_its_question(name):
    study = load_study(find_study_file(Path(name)))
    assert study.name == name
    assert "?" in study.description


def test_a_file_of_the_same_name_comes_first(toy_file):
    toy_file().rename("quickstart")
    assert find_study_file(Path("quickstart")) == Path("quickstart")


def test_a_folder_of_the_same_name_hides_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert load_study(Path("quickstart")).name == "quickstart"
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"^mine: a folder, not a study file$"):
        load_study(Path("mine"))


def test_a_shipped_study_is_found_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["run", "quickstart", "--dry-run"]) == 0
    assert "quickstart" in capsys.readouterr().out


def test_what_is_nowhere_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^quickstrat: no such study file; did you mean quickstart"):
        find_study_file(Path("quickstrat"))
    with pytest.raises(InputError, match=r"^mine\.yaml: no such study file$"):
        find_study_file(Path("mine.yaml"))
