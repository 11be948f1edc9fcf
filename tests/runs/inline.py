"""A toy study, and studies whose trials run in this very process."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from naslab.runs.driver import run_study
from naslab.runs.executors import Slot
from naslab.runs.progress import Progress
from naslab.runs.threads import threads_per_slot

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


def run_here(ledger):
    """Run what a study needs in this process, one trial after the other: what a driver with one slot records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("naslab.runs.driver.make_executor", InlineExecutor)
        run_study(ledger, 1, Progress(Console(stderr=True), quiet=True))
    return ledger


class InlineExecutor(ThreadPoolExecutor):
    """An executor without processes: one thread, as a worker at a rung waits for what the driver decides."""

    def __init__(self, choice, slots, device, files, say):
        super().__init__(max_workers=1)
        self._slot = Slot("cpu", threads=threads_per_slot(slots))

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(fn, *args, **kwargs, slot=self._slot)

    def kill(self, future):
        raise AssertionError("a thread cannot be killed; use the real executor")
