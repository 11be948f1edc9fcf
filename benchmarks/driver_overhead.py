"""Overhead of the driver per trial, early and late in a study, over doing the same job directly in a warm worker.

Usage: python benchmarks/driver_overhead.py [--samplers random tpe] [--marks 10 500 2000] [--out FOLDER]
    [--peers PEERS/bin/python [--peer-trials 100]]

Studies of random and TPE proposals in the space of examples/digits_mlp.py cut to almost nothing (540 rows, one epoch).
The driver's cost of a trial is the time between the ends of successive trials on one slot, less the trial's own charged
seconds; the direct cost is the same difference for `run_job` called in a loop in one process. Beside it stands plain
Optuna: `study.optimize` on the same distributions, sampler and kind of storage, a trial of it after each of ours, so
that a busy machine slows both. Each figure is the median of the trials around a mark. With `--peers`, Ray Tune and Syne
Tune run a function that costs nothing, trial by trial, in the environment of that python (`pip install "ray[tune]"
syne-tune optuna`; see peers_overhead.py). Goals at 2,000: at most 25 ms (random); at most twice Optuna's own (TPE).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
    """Notes what each proposal took beyond its own seconds, and runs `beside` after each."""

    def __init__(self, beside: Callable[[], None]) -> None:
        super().__init__(Console(stderr=True), quiet=True)
        self.beside = beside
        self.ours_ms: list[float] = []
        self.beside_ms: list[float] = []
        self._since: float | None = None

    def finished(self, job: Job, state: str, value: float | None, seconds: float, error: str | None) -> None:
        """See Progress.finished."""
        if job.role != "proposal":
            return
        end = time.perf_counter()
        if self._since is not None:
            self.ours_ms.append(1000 * (end - self._since - seconds))
        self.beside()
        self._since = time.perf_counter()
        self.beside_ms.append(1000 * (self._since - end))


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


def driver_and_optuna_ms(study: Study, folder: Path) -> tuple[list[float], list[float]]:
    """What each proposal took beyond its own seconds, and a trial of plain Optuna after each."""
    clock = Clock(plain_optuna(study, folder))
    run_study(Ledger.start(str(folder / "naslab.db"), study), 1, clock)
    return clock.ours_ms, clock.beside_ms


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


def plain_optuna(study: Study, folder: Path) -> Callable[[], None]:
    """Runs one trial of `study.optimize` on the same space, with an objective that costs nothing."""
    space = study.search_space

    def objective(trial: optuna.Trial) -> float:
        return float(len(str(suggest_values(space, lambda name, distribution: trial._suggest(name, distribution)))))

    sampler = TPESampler(seed=0) if study.arms[0].name == "tpe" else RandomSampler(seed=0)
    plain = optuna.create_study(storage=f"sqlite:///{folder / 'optuna.db'}", sampler=sampler, direction="maximize")
    return lambda: plain.optimize(objective, n_trials=1)


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


def measured(sampler: str, marks: Sequence[int], folder: Path) -> dict[str, Any]:
    """Figures around each mark, with all samples."""
    study = parse_study(study_document(sampler, max(marks)), "the benchmark's study")
    ours, plain = driver_and_optuna_ms(study, folder)
    direct = direct_ms(study, folder / "direct")
    rows = [
        {"trials": mark, "overhead_ms": around(ours, mark) - direct, "optuna_ms": around(plain, mark)} for mark in marks
    ]
    return {"direct_ms": direct, "marks": rows, "driver_samples_ms": ours, "optuna_samples_ms": plain}


def main() -> None:
    """Measure sampler by sampler, each into a result file of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", choices=("random", "tpe"), default=["random", "tpe"])
    parser.add_argument("--marks", type=int, nargs="+", default=[10, 500, 2000])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--peers", type=Path, help="python of an environment with ray[tune], syne-tune and optuna")
    parser.add_argument("--peer-trials", type=int, default=100)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for sampler in arguments.samplers:
        with tempfile.TemporaryDirectory() as name:
            found = measured(sampler, arguments.marks, Path(name))
        for row in found["marks"]:
            print(f"{sampler} at {row['trials']}: {row['overhead_ms']:.1f} ms, Optuna {row['optuna_ms']:.1f} ms")
        for tool in ("ray", "syne") if arguments.peers else ():
            ms = around(peers_ms(arguments.peers, tool, sampler, arguments.peer_trials), arguments.peer_trials - 1)
            found.setdefault("peers", {})[tool] = {"trials": arguments.peer_trials, "ms": ms}
            print(f"{sampler}: {tool} {ms:.1f} ms at {arguments.peer_trials}")
        document = {"schema": "naslab.driver_overhead/3", "seed": 0, "sampler": sampler, **found}
        write_result(arguments.out / f"driver_overhead_{sampler}.json", document)


if __name__ == "__main__":
    main()
