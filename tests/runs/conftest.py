import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from naslab.runs.driver import run_study
from naslab.runs.output import err, out
from naslab.runs.progress import Progress

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))

WIDE = 200
TOY = {
    "schema": "naslab.study/1",
    "name": "toy",
    "device": "cpu",
    "seeds": [0, 1],
    "space": {"name": "toy_space:Space"},
    "task": {"epochs": 2},
    "arms": [
        {"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 4},
        {"name": "evolution", "engine": "optuna", "sampler": "evolution", "population": 2, "trials": 3},
    ],
    "random_architectures": 2,
}


@pytest.fixture(autouse=True)
def wide_console(monkeypatch):
    """What a table says is tested where nothing wraps; that it stays readable elsewhere has tests of its own."""
    monkeypatch.setenv("COLUMNS", str(WIDE))
    widths = [(console, console.width) for console in (out, err)]
    for console, _ in widths:
        console.width = WIDE
    yield
    for console, width in widths:
        console.width = width


@pytest.fixture
def toy_file(tmp_path, monkeypatch):
    """Write a toy study, changed as asked, into an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({**TOY, **changes}))
        return path

    return write


def run_here(ledger):
    """Run what a study needs in this process, one trial after the other: what a driver with one slot records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("naslab.runs.driver.LocalExecutor", InlineExecutor)
        run_study(ledger, 1, Progress(Console(stderr=True), quiet=True))
    return ledger


class InlineExecutor(ThreadPoolExecutor):
    """An executor without processes: one thread, as a worker at a rung waits for what the driver decides."""

    def __init__(self, slots, device):
        super().__init__(max_workers=1)
        self._device = str(device)
        self.shares = {self._device: 1.0}

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(fn, *args, **kwargs, device=self._device)

    def kill(self, future):
        raise AssertionError("a thread cannot be killed; use the real executor")


@pytest.fixture
def inline(monkeypatch):
    """The worker is a thread of this very process, which saves the start of another."""
    monkeypatch.setattr("naslab.runs.driver.LocalExecutor", InlineExecutor)
