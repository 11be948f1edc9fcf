import os
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))

TOY = {
    "schema": "naslab.study/1",
    "name": "toy",
    "seeds": [0, 1],
    "space": {"name": "toy_space:Space"},
    "task": {"epochs": 2},
    "arms": [
        {"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 4},
        {"name": "evolution", "engine": "optuna", "sampler": "evolution", "population": 2, "trials": 3},
    ],
    "random_architectures": 2,
}


@pytest.fixture
def toy_file(tmp_path, monkeypatch):
    """Write a toy study, changed as asked, into an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({**TOY, **changes}))
        return path

    return write
