"""Where files lie: the same place from every folder, and wherever it is mounted."""

from pathlib import Path

import pytest
from inline import TOY, run_here

from naslab.runs.ledger import Ledger
from naslab.runs.place import RUNS_VARIABLE
from naslab.runs.study import parse_study


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders, and how to go to one."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return lambda name: monkeypatch.chdir(tmp_path / name)


def start(storage, name="toy"):
    return Ledger.start(storage, parse_study({**TOY, "name": name, "arms": [], "seeds": [0]}, "test"))


def test_files_are_found_from_another_folder(storage, folders, tmp_path, monkeypatch):
    folders("one")
    first = run_here(start(storage))
    place = first.files.resolve()
    weights = sorted(place.rglob("model.safetensors"))
    assert weights
    folders("two")
    assert Ledger.open(storage, "toy").files.resolve() == place
    assert run_here(start(storage)).trials() == first.trials()
    other = run_here(start(storage, "other"))
    assert other.files.resolve().parent == place.parent, "new studies are made beside it"
    assert not list(Path().iterdir())
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path / "mounted"))
    (tmp_path / "mounted").symlink_to(place.parent)
    assert sorted(Ledger.open(storage, "toy").files.rglob("model.safetensors"))
    run_here(start(storage))
    monkeypatch.delenv(RUNS_VARIABLE)
    assert Ledger.open(storage, "toy").files.resolve() == place, "how one machine sees it is not recorded"
