"""The user's folder on the path: first, but never in the place of naslab itself."""

import sys

import pytest

from naslab.search_spaces.user_modules import import_from


@pytest.fixture
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", ["elsewhere", *(p for p in sys.path if p)])
    return sys.path


def test_a_folder_comes_before_all_others_and_once(tmp_path, path):
    import_from(tmp_path)
    import_from(tmp_path)
    assert sys.path[0] == str(tmp_path.resolve())
    assert sys.path.count(str(tmp_path.resolve())) == 1


@pytest.mark.parametrize("namesake", ["naslab.py", "naslab/__init__.py"])
def test_a_folder_with_a_naslab_of_its_own_hides_nothing(tmp_path, path, namesake):
    (tmp_path / namesake).parent.mkdir(exist_ok=True)
    (tmp_path / namesake).write_text("raise RuntimeError")
    import_from(tmp_path)
    assert sys.path[0] == "elsewhere"
    assert sys.path[-1] == str(tmp_path.resolve())
