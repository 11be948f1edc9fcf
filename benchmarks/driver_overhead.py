"""Overhead of the driver per trial, early and late in a study, over doing the same job directly in a warm worker.

Usage: python benchmarks/driver_overhead.py [--marks 10 500 2000] [--out benchmarks/results/driver_overhead.json]
    [--peers PEERS/bin/python [--peer-trials 100]]

Studies of random and TPE proposals in the space of examples/digits_mlp.py cut to almost nothing (540 rows, one epoch).
The driver's cost of a trial is the time between the ends of successive trials on one slot, less the trial's own charged
seconds; the direct cost is the same difference for `run_job` called in a loop in one process. Beside it stands plain
Optuna: ask and tell of `study.optimize` on the same distributions, sampler and kind of storage. Each figure is the
median of the trials around a mark. With `--peers`, Ray Tune and Syne Tune run a function that costs nothing, trial by
trial, in the environment of that python (`pip install "ray[tune]" syne-tune optuna`; see peers_overhead.py). Goals at
2,000: at most 25 ms (random); at most twice Optuna's own (TPE).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.samplers import RandomSampler, TPESampler
from results_file import write_result
from rich.console import Console

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH", "")]))

from naslab.nas.encoding import suggest_values  # noqa: E402 - the worker processes must find the example
from naslab.runs.driver import run_study  # noqa: E402
from naslab.runs.executors import Slot  # noqa: E402
from naslab.runs.ledger import Ledger  # noqa: E402
from naslab.runs.progress import Progress  # noqa: E402
from naslab.runs.study import Study, parse_study  # noqa: E402
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


def study_document(sampler: str, trials: int) -> dict[str, Any]:
    """Proposals whose training takes milliseconds."""
    return {
        "schema": "naslab.study/1",
        "name": "overhead",
        "seeds": [0],
        "space": {"name": "digits_mlp:Space"},
        "task": {"epochs": 1},
        "arms": [{"name": sampler, "engine": "optuna", "sampler": sampler, "trials": trials}],
        "random_architectures": 0,
    }


def driver_ms(study: Study, folder: Path) -> list[float]:
    """What each proposal took beyond its own seconds."""
    clock = Clock()
    run_study(Ledger.start(str(folder / "naslab.db"), study), 1, clock)
    proposals = [(end, seconds) for role, end, seconds in clock.ends if role == "proposal"]
    return [1000 * (end - before - seconds) for (before, _), (end, seconds) in itertools.pairwise(proposals)]


def direct_ms(study: Study, folder: Path, repetitions: int = 30) -> float:
    """The same of a job that is done without a driver."""
    job = Job("direct", "proposal", "direct", 0, study.search_space.reference, study.arms[0].name)
    taken = []
    for number in range(repetitions):
        started = time.perf_counter()
        outcome, _ = run_job(
            study.document(), job, folder / str(number), folder / f"{number}.log", Slot("cpu", threads=1)
        )
        taken.append(1000 * (time.perf_counter() - started - sum(outcome.seconds.values())))
    return median(taken[1:])


def optuna_ms(study: Study, folder: Path, trials: int) -> list[float]:
    """Plain Optuna on the same space: a trial's time in `study.optimize` with an objective that costs nothing."""
    space, ends = study.search_space, []

    def objective(trial: optuna.Trial) -> float:
        values = suggest_values(space, lambda name, distribution: trial._suggest(name, distribution))
        return float(len(str(values)))

    sampler = TPESampler(seed=0) if study.arms[0].name == "tpe" else RandomSampler(seed=0)
    plain = optuna.create_study(storage=f"sqlite:///{folder / 'optuna.db'}", sampler=sampler, direction="maximize")
    plain.optimize(objective, n_trials=trials, callbacks=[lambda *_: ends.append(time.perf_counter())])
    return [1000 * (b - a) for a, b in itertools.pairwise(ends)]


def peers_ms(python: Path, tool: str, sampler: str, trials: int) -> list[float]:
    """What a trial takes in Ray Tune or Syne Tune, which live in an environment of their own."""
    script = Path(__file__).with_name("peers_overhead.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(python), str(script), tool, sampler, str(trials)],
        check=True, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    found: list[float] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def around(samples: Sequence[float], mark: int) -> float:
    """Median of the trials around number `mark`."""
    half = max(mark // 20, 3)
    return median(samples[max(mark - 2 * half, 0) : mark])


def main() -> None:
    """Measure all, sampler by sampler, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--marks", type=int, nargs="+", default=[10, 500, 2000])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/driver_overhead.json"))
    parser.add_argument("--peers", type=Path, help="python of an environment with ray[tune], syne-tune and optuna")
    parser.add_argument("--peer-trials", type=int, default=100)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for sampler in ("random", "tpe"):
        study = parse_study(study_document(sampler, max(arguments.marks)), "the benchmark's study")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ours, plain = driver_ms(study, folder), optuna_ms(study, folder, max(arguments.marks))
            direct = direct_ms(study, folder / "direct")
        found[sampler] = {
            "direct_ms": direct,
            "marks": [
                {"trials": mark, "overhead_ms": around(ours, mark) - direct, "optuna_ms": around(plain, mark)}
                for mark in arguments.marks
            ],
            "driver_samples_ms": ours,
        }
        for tool in ("ray", "syne") if arguments.peers else ():
            ms = around(peers_ms(arguments.peers, tool, sampler, arguments.peer_trials), arguments.peer_trials - 1)
            found[sampler].setdefault("peers", {})[tool] = {"trials": arguments.peer_trials, "ms": ms}
            print(f"{sampler}: {tool} {ms:.1f} ms at {arguments.peer_trials}")
        for row in found[sampler]["marks"]:
            print(f"{sampler} at {row['trials']}: {row['overhead_ms']:.1f} ms, Optuna {row['optuna_ms']:.1f} ms")
    write_result(arguments.out, {"schema": "naslab.driver_overhead/2", "seed": 0, **found})


if __name__ == "__main__":
    main()
