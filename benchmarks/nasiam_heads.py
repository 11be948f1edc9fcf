"""Searched against published heads on Fashion-MNIST, and four ways of searching at equal device hours.

Usage: python benchmarks/nasiam_heads.py [--folder naslab-runs] [--slots 2] [--out benchmarks/results/nasiam_heads.json]

Runs studies/fashion_{simclr,simsiam,mocov2}.yaml through `naslab run`, SimCLR's with three study seeds so that the
searches too are repeated; goes on where an earlier call stopped. The file holds, for every study, its ranking, every
trial with its scores and seconds, and the differences to the published heads and between the arms with intervals.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from results_file import write_result
from study_result import run_study

from naslab.nas.statistics import difference_interval
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.runs.trial import Trial

STUDIES = [("simclr", 0), ("simsiam", 0), ("mocov2", 0), ("simclr", 1), ("simclr", 2)]
METRICS = ("knn_top1", "linear_top1")


def run(framework: str, seed: int, storage: str, slots: int) -> str:
    """Run one study to its end; its name."""
    name = f"fashion_{framework}" + (f"_seed{seed}" if seed else "")
    run_study(f"studies/fashion_{framework}.yaml", storage, slots, {"name": name, "seed": seed})
    return name


def summarise(ledger: Ledger) -> dict[str, Any]:
    """Ranking, raw trials and differences of one finished study."""
    trials = ledger.trials()
    document: dict[str, Any] = {
        "study": ledger.study.document(),
        "ranking": rank(ledger.study, trials).to_dict(),
        "trials": [raw(trial) for trial in trials],
        "against_published": {},
    }
    runs = {
        role: [t for t in trials if t.job.role == role and t.state == "complete"]
        for role in ("reference", "final", "random")
    }
    groups = {"random_architectures": runs["random"]}
    for arm in ledger.study.arms:
        groups[arm.name] = [t for t in runs["final"] if t.job.arm == arm.name]
    for name, group in groups.items():
        if group:
            document["against_published"][name] = {
                metric: asdict(difference_interval(scores(group, metric), scores(runs["reference"], metric)))
                for metric in METRICS
            }
    return document


def scores(trials: list[Trial], metric: str) -> list[float]:
    """The metric of each trial."""
    return [t.scores[metric] for t in trials]


def raw(trial: Trial) -> dict[str, Any]:
    """A trial as plain values."""
    configuration = trial.job.configuration
    return {
        "number": trial.number,
        "key": trial.job.key,
        "role": trial.job.role,
        "arm": trial.job.arm,
        "seed": trial.job.seed,
        "state": trial.state,
        "configuration": None if configuration is None else configuration.as_dict(),
        "seconds": dict(trial.seconds),
        "scores": dict(trial.scores),
    }


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("naslab-runs"))
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--studies", type=int, default=len(STUDIES), help="only the first N of the studies")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/nasiam_heads.json"))
    arguments = parser.parse_args()
    storage = str(arguments.folder / "benchmark.db")
    names = [run(framework, seed, storage, arguments.slots) for framework, seed in STUDIES[: arguments.studies]]
    studies = {name: summarise(Ledger.open(storage, name)) for name in names}
    write_result(arguments.out, {"schema": "naslab.nasiam_heads/1", "studies": studies})


if __name__ == "__main__":
    main()
