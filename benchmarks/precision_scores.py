"""Whether a score depends on the number format: each task trained in float32 and in bfloat16, paired by seed.

    python benchmarks/precision_scores.py [--device cpu|cuda] [--quick] [--seeds 5] [--tasks simclr,mae] [--seconds 110]

Both trainings of a pair start from the same weights and see the same batches. The interval is of the mean difference,
bfloat16 less float32, over the seeds (Student, 95 %). Seeds go round all tasks before the next one begins, so that a
time limit leaves every task with as many pairs.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from results_file import write_result

from naslab.efficiency.device import resolve_device
from naslab.nas.statistics import mean_interval
from naslab.search_spaces import Task, find_space, seed_everything
from naslab.search_spaces.find import make_task

RESULTS = Path(__file__).parent / "results"
IMAGES = {"dataset": {"train": 8000}, "epochs": 24}
FULL: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "simclr": ("nasiam", {"framework": "simclr"}, IMAGES),
    "simsiam": ("nasiam", {"framework": "simsiam"}, IMAGES),
    "mae": ("mae", {}, {**IMAGES, "metric": "knn_top1"}),
    "token_reduction": ("token_reduction", {}, IMAGES),
    "smaug": ("smaug", {}, {"dataset": {"train": 1024}, "epochs": 24, "learning_rate": 1e-3}),
    "altup": ("altup", {}, {"epochs": 3}),
}
"""Space, options and task of each, at the preset `tiny`."""
QUICK: Mapping[str, Mapping[str, Any]] = {
    "simclr": {"dataset": {"train": 4000}, "epochs": 6},
    "simsiam": {"dataset": {"train": 4000}, "epochs": 6},
    "mae": {"dataset": {"train": 4000}, "epochs": 8},
    "token_reduction": {"dataset": {"train": 4000}, "epochs": 6},
    "smaug": {"dataset": {"train": 512, "validation": 128, "test": 128}, "epochs": 6},
    "altup": {"epochs": 1, "steps_per_epoch": 80},
}
PRECISIONS = {"float32": "contiguous", "bfloat16": "channels_last"}
"""With the layout that is fastest for each, where there are convolutions."""
SCORES_OF = "validation"


def tasks_of(name: str, quick: bool, device: torch.device) -> dict[str, Task]:
    """The task in each number format; data is loaded once a format."""
    space_name, options, values = FULL[name]
    space = find_space(space_name, "tiny", dict(options))
    chosen = {**values, **(QUICK[name] if quick else {})}
    # One rung at the end: what is compared is the trained model.
    every = {"rung_epochs": chosen["epochs"]}
    policies = {p: {"precision": p, "memory_format": layout, "compile": "off"} for p, layout in PRECISIONS.items()}
    return {p: make_task(space, {**chosen, **every, "policy": policy}, device) for p, policy in policies.items()}


def score(task: Task, seed: int) -> dict[str, float]:
    """The metric of the reference after its training, the last loss, and the seconds of both."""
    seed_everything(seed)
    model = task.space.build(task.space.reference)
    start = time.perf_counter()
    (rung,) = task.train(model, seed)
    trained = time.perf_counter() - start
    scores = task.evaluate(model, SCORES_OF, full=False)
    return {"score": scores[task.metric], "loss": rung.facts["loss"], "train_seconds": trained}


def main() -> None:
    """Train all pairs and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="some hundred seconds in all: shorter trainings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", default=",".join(FULL))
    parser.add_argument("--seconds", type=float, help="begin no further pair after so many; quick: 90")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device, start = resolve_device(arguments.device), time.perf_counter()
    limit = arguments.seconds or (90.0 if arguments.quick else float("inf"))
    names = arguments.tasks.split(",")
    tasks = {name: tasks_of(name, arguments.quick, device) for name in names}
    pairs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    failures: dict[str, str] = {}
    for seed in range(arguments.seeds):
        for name in names:
            if (seed and time.perf_counter() - start > limit) or name in failures:
                continue
            try:
                pairs[name].append({"seed": seed, **{p: score(task, seed) for p, task in tasks[name].items()}})
            except Exception as error:  # noqa: BLE001 - the other tasks go on on a lent machine
                failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(name, pairs[name][-1:] or failures[name], flush=True)
    rows = {name: row(tasks[name]["float32"], pairs[name]) for name in names if pairs[name]}
    for name, found in rows.items():
        difference = found["difference"]
        print(f"{name}: {difference['mean']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}]")
    document = {"schema": "naslab.precision_scores/1", "quick": arguments.quick, "tasks": rows, "failures": failures}
    kind = "_quick" if arguments.quick else ""
    write_result(arguments.out or RESULTS / f"precision_scores_{device.type}{kind}.json", document, str(device))


def row(task: Task, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Metric, intervals and the raw pairs."""
    by = {p: [pair[p]["score"] for pair in pairs] for p in PRECISIONS}
    less = [b - a for a, b in zip(by["float32"], by["bfloat16"], strict=True)]
    return {
        "metric": task.metric,
        "percentage": task.metric in task.percentages,
        **{p: asdict(mean_interval(scores)) for p, scores in by.items()},
        "difference": asdict(mean_interval(less)),
        "options": task.options.model_dump(mode="json"),
        "pairs": pairs,
    }


if __name__ == "__main__":
    main()
