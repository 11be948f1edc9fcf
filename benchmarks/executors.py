"""Start-up and cost of a trial on each executor, and the trials' share of the slots' time with 1 to 8 workers.

Usage: python benchmarks/executors.py [--kinds local ray slurm] [--workers 1 2 4 8] [--trials 8] [--minutes 8]
    [--out benchmarks/results/executors.json]

Start-up is from making an executor to the first answer of a call that imports what a trial needs. The cost of a call is
the median over calls that do nothing, one after the other. Then studies of chaos_space.py, whose training is sleeping,
up to the end of their last proposal: trials that take nothing and trials of one second, and which share of workers
times elapsed time, the workers' start included, the trials' own seconds are. The process that local workers are copies
of is there by then, from the measured start-up. Each worker has at least a trial. What does not fit into each
executor's part of the minutes is left out, and null in the result.

Slurm is submitit's local executor: the queue of a real cluster comes on top.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from chaos_space import nothing
from results_file import write_result
from rich.console import Console

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))

from naslab.runs.driver import run_study  # noqa: E402 - the workers must find the space
from naslab.runs.executors.choose import make_executor  # noqa: E402
from naslab.runs.ledger import Ledger  # noqa: E402
from naslab.runs.progress import Progress  # noqa: E402
from naslab.runs.study import Study, parse_study  # noqa: E402
from naslab.runs.trial import Job  # noqa: E402

CHOICES: dict[str, dict[str, Any]] = {
    "local": {"kind": "local"},
    "ray": {"kind": "ray", "cpus": 0.1, "address": "local"},
    "slurm": {"kind": "slurm", "cluster": "local"},
}
KINDS = {"nothing": 0.001, "one second": 1.0}
"""Seconds of a trial's training."""
LAST_SECONDS = 30.0
"""So long the last of an executor's studies may take beyond its time."""


class UntilLastProposal(Progress):
    """Ends the study with its last proposal: what comes then is the same on all executors."""

    def __init__(self, proposals: int) -> None:
        super().__init__(Console(stderr=True), quiet=True)
        self._left, self.ended = proposals, 0.0

    def finished(self, job: Job, state: Any, value: Any, seconds: float, error: str | None) -> None:
        self._left -= job.role == "proposal"
        if not self._left and not self.ended:
            self.ended = time.perf_counter()
            signal.raise_signal(signal.SIGINT)


def study_of(kind: str, name: str, seconds: float, trials: int, folder: Path) -> Study:
    """Proposals that sleep for so long."""
    document = {
        "schema": "naslab.study/1",
        "name": name,
        "device": "cpu",
        "seeds": [0],
        "space": {"name": "chaos_space:Space"},
        "task": {"witness": str(folder), "epochs": 1, "epoch_seconds": seconds},
        "arms": [{"name": "random", "engine": "optuna", "sampler": "random", "trials": trials}],
        "random_architectures": 0,
        "finalists": 1,
        "executor": CHOICES[kind],
    }
    return parse_study(document, name)


def calls(kind: str, folder: Path, number: int = 20) -> dict[str, float]:
    """Seconds to the first answer, and milliseconds of each later one."""
    began = time.perf_counter()
    executor = make_executor(study_of(kind, "calls", 1.0, 1, folder).executor, 1, "cpu", folder, print)
    try:
        executor.submit(nothing).result()
        first, taken = time.perf_counter() - began, []
        for _ in range(number if kind != "slurm" else 5):
            began = time.perf_counter()
            executor.submit(nothing).result()
            taken.append(1000 * (time.perf_counter() - began))
    finally:
        executor.shutdown()
    return {"first_answer_seconds": first, "call_ms": median(taken)}


def share(kind: str, workers: int, seconds: float, trials: int) -> dict[str, float]:
    """Of a study with so many workers: elapsed seconds, and the trials' share of the workers' time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "witness").mkdir()
        ledger = Ledger.start(str(folder / "naslab.db"), study_of(kind, "share", seconds, trials, folder / "witness"))
        progress, began = UntilLastProposal(trials), time.perf_counter()
        with suppress(KeyboardInterrupt):
            run_study(ledger, workers, progress)
        elapsed = progress.ended - began
        own = sum(t.wall_seconds for t in ledger.trials() if t.job.role == "proposal")
    return {"trials": trials, "elapsed_seconds": elapsed, "trial_seconds": own, "share": own / (workers * elapsed)}


def measure(kind: str, workers: list[int], trials: int, seconds: float) -> dict[str, Any]:
    """All of an executor, as far as it fits into so many seconds."""
    deadline = time.perf_counter() + seconds
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {"calls": calls(kind, Path(folder))}
    if kind == "ray":  # one cluster for all its studies, whose start `calls` has measured
        import ray

        ray.init("local", log_to_driver=False, logging_level="ERROR")
    for name, of_trial in KINDS.items():
        found[name] = {}
        for number in workers:
            fits = time.perf_counter() < deadline
            found[name][str(number)] = share(kind, number, of_trial, max(trials, number)) if fits else None
            print(kind, name, number, found[name][str(number)], flush=True)
    return found


def main() -> None:
    """Measure, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=HERE / "results/executors.json")
    given = parser.parse_args()
    seconds = 60 * given.minutes / len(given.kinds) - LAST_SECONDS
    found = {kind: measure(kind, given.workers, given.trials, seconds) for kind in given.kinds}
    write_result(given.out, {"trials": given.trials, "executors": found})


if __name__ == "__main__":
    main()
