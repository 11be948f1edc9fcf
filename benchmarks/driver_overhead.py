"""Overhead of the driver per trial, over doing the same job directly in a warm worker.

Usage: python benchmarks/driver_overhead.py [--trials 60] [--out benchmarks/results/driver_overhead.json]

A study of random proposals in the space of examples/digits_mlp.py cut to almost nothing (540 rows, one epoch). The
driver's cost of a trial is the time between the ends of successive trials on one slot, less the trial's own charged
seconds; the direct cost is the same difference for `run_job` called in a loop in one process. Goal: at most 50 ms.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from results_file import write_result
from rich.console import Console

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH", "")]))

from naslab.runs.driver import run_study  # noqa: E402 - the worker processes must find the example
from naslab.runs.ledger import Ledger  # noqa: E402
from naslab.runs.progress import Progress  # noqa: E402
from naslab.runs.study import parse_study  # noqa: E402
from naslab.runs.trial import Job  # noqa: E402
from naslab.runs.worker import run_job  # noqa: E402


class Clock(Progress):
    """Notes when each trial's result was recorded, and what it was charged."""

    def __init__(self) -> None:
        super().__init__(Console(stderr=True), quiet=True)
        self.ends: list[tuple[str, float, float]] = []

    def finished(self, job: Job, state: str, value: float | None, seconds: float, error: str | None) -> None:
        """See Progress.finished."""
        self.ends.append((job.role, time.perf_counter(), seconds))


def study_document(trials: int) -> dict[str, Any]:
    """Random proposals whose training takes milliseconds."""
    return {
        "schema": "naslab.study/1",
        "name": "overhead",
        "seeds": [0],
        "space": {"name": "digits_mlp:Space"},
        "task": {"epochs": 1},
        "arms": [{"name": "random", "engine": "optuna", "sampler": "random", "trials": trials}],
        "random_architectures": 0,
    }


def main() -> None:
    """Measure both and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/driver_overhead.json"))
    arguments = parser.parse_args()
    study = parse_study(study_document(arguments.trials), "the benchmark's study")
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        ledger = Ledger.start(str(Path(folder, "naslab.db")), study)
        run_study(ledger, 1, clock)
        proposals = [(end, seconds) for role, end, seconds in clock.ends if role == "proposal"]
        driver_ms = [1000 * (end - before - seconds) for (before, _), (end, seconds) in itertools.pairwise(proposals)]
        jobs = [t.job for t in ledger.trials() if t.job.role == "proposal"]
        direct_ms = []
        for number, job in enumerate(jobs):
            started = time.perf_counter()
            outcome, _ = run_job(study.document(), job, Path(folder, "direct", str(number)), "cpu", 2)
            direct_ms.append(1000 * (time.perf_counter() - started - sum(outcome.seconds.values())))
    overhead = [d - median(direct_ms[1:]) for d in driver_ms]
    low, *_, high = quantiles(overhead, n=10)
    print(f"overhead per trial: median {median(overhead):.1f} ms, p10 {low:.1f}, p90 {high:.1f}")
    write_result(
        arguments.out,
        {
            "schema": "naslab.driver_overhead/1",
            "seed": study.seed,
            "overhead_ms": {"median": median(overhead), "p10": low, "p90": high},
            "driver_samples_ms": driver_ms,
            "direct_samples_ms": direct_ms,
        },
    )


if __name__ == "__main__":
    main()
