"""What Ray Tune and Syne Tune take for each trial of a function that costs nothing; run in an environment of their own.

Usage: PEERS/bin/python benchmarks/peers_overhead.py TOOL SAMPLER TRIALS

TOOL is ray or syne, SAMPLER random or tpe (Ray's through its OptunaSearch). One trial
at a time; printed is a JSON list of the milliseconds between the ends of successive trials. PEERS needs `ray[tune]`,
`syne-tune` and `optuna`.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPACE = {"lr": (1e-4, 1.0), "width": (16, 32, 64, 128)}
TRAINABLE = """
from argparse import ArgumentParser
from syne_tune import Reporter
parser = ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--width", type=int)
Reporter()(accuracy=parser.parse_known_args()[0].lr)
"""


def ray_ends(sampler: str, trials: int, folder: Path) -> list[float]:
    """When each of Ray Tune's trials ended."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # it would write a token into the home folder
    from ray import tune

    ends: list[float] = []

    class Clock(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ends.append(time.perf_counter())

    def objective(config: dict[str, Any]) -> None:
        tune.report({"accuracy": config["lr"]})

    search = None
    if sampler == "tpe":
        from ray.tune.search.optuna import OptunaSearch

        search = OptunaSearch(metric="accuracy", mode="max", seed=0)
    settings = tune.TuneConfig(num_samples=trials, max_concurrent_trials=1, search_alg=search)
    place = tune.RunConfig(storage_path=str(folder), callbacks=[Clock()], verbose=0)
    space = {"lr": tune.loguniform(*SPACE["lr"]), "width": tune.choice(SPACE["width"])}
    tune.Tuner(objective, param_space=space, tune_config=settings, run_config=place).fit()
    return ends


def syne_ends(sampler: str, trials: int, folder: Path) -> list[float]:
    """When each of Syne Tune's trials ended; its local backend starts a process for each."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import choice, loguniform
    from syne_tune.optimizer.baselines import TPE, RandomSearch
    from syne_tune.tuner_callback import TunerCallback

    ends: list[float] = []

    class Clock(TunerCallback):  # type: ignore[misc]
        def on_trial_complete(self, trial: Any, result: dict[str, Any]) -> None:
            ends.append(time.perf_counter())

    script = folder / "trainable.py"
    script.write_text(TRAINABLE)
    space = {"lr": loguniform(*SPACE["lr"]), "width": choice(list(SPACE["width"]))}
    if sampler == "tpe":
        scheduler = TPE(space, metric="accuracy", do_minimize=False, random_seed=0)
    else:
        scheduler = RandomSearch(space, metrics=["accuracy"], do_minimize=False, random_seed=0)
    Tuner(
        trial_backend=LocalBackend(entry_point=str(script)),
        scheduler=scheduler,
        stop_criterion=StoppingCriterion(max_num_trials_completed=trials),
        n_workers=1,
        sleep_time=0.01,
        callbacks=[Clock()],
        save_tuner=False,
        print_update_interval=1e9,
    ).run()
    return ends


def main() -> None:
    """Run the tool, and print the milliseconds a trial."""
    tool, sampler, trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        ends = {"ray": ray_ends, "syne": syne_ends}[tool](sampler, trials, Path(folder))
    print(json.dumps([1000 * (b - a) for a, b in itertools.pairwise(ends)]))


if __name__ == "__main__":
    main()
