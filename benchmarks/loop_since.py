"""Whole trainings of SimCLR by an earlier commit and by today's code, in turns: how much faster the loop has become.

    python benchmarks/loop_since.py [--commit 444aeb8] [--presets small,tiny] [--rounds 5]

The commit is the last before the training policy. Each run is a process of its own, in a work tree of the commit or in
this one, on the embedded images. Its first epoch, with imports, warm-up and the measurement of `auto`, is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results_file import RESULTS, write_result

from naslab.efficiency.latency import ratio_interval

HERE = Path(__file__).resolve().parent.parent
EPOCHS, BATCH, IMAGES = 5, 256, 4000
LOOPS: dict[str, dict[str, str] | None] = {
    "before": None,
    "float32": {"precision": "float32", "memory_format": "contiguous", "compile": "off"},
    "bfloat16": {"precision": "bfloat16", "memory_format": "contiguous", "compile": "off"},
    "bfloat16 channels_last": {"precision": "bfloat16", "memory_format": "channels_last", "compile": "off"},
}
"""The policy of each loop; the earlier commit has none."""
PROGRAM = """
import json, sys, time
import torch
from naslab.search_spaces import find_space, seed_everything
preset, options, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
space = find_space("nasiam", preset, {"framework": "simclr", "temperature": 0.2})
task = space.Task(space, space.Task.Options(**options), torch.device("cpu"))
seed_everything(0)
model = space.build(space.reference)
ends = []
for rung in task.train(model, 0):
    ends.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(ends, ends[1:])]))
"""


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="444aeb8")
    parser.add_argument("--presets", default="small,tiny")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tree_of(arguments.commit) as earlier:
        cases = {preset: in_turns(preset, earlier, arguments.rounds) for preset in arguments.presets.split(",")}
    document = {
        "schema": "naslab.loop_since/1",
        "commit": arguments.commit,
        "unit": f"seconds an epoch of {IMAGES} images, batch {BATCH}; faster: than the earlier commit's loop",
        "cases": cases,
    }
    write_result(RESULTS / "loop_since.json", document)


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """A work tree of the commit, for as long."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "earlier"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], cwd=HERE, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=HERE, check=True)


def in_turns(preset: str, earlier: Path, rounds: int) -> dict[str, Any]:
    """Seconds an epoch of each loop, and how many times as fast as the earlier it is."""
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for _ in range(rounds):
        for name, policy in LOOPS.items():
            seconds[name] += epochs(earlier if policy is None else HERE, preset, policy)
    faster = {
        name: [statistics.median(seconds["before"]) / statistics.median(own), *ratio_interval(seconds["before"], own)]
        for name, own in seconds.items()
        if name != "before"
    }
    print(preset, {name: " ".join(f"{value:.2f}" for value in row) for name, row in faster.items()}, flush=True)
    return {"seconds": seconds, "faster": faster}


def epochs(tree: Path, preset: str, policy: dict[str, str] | None) -> list[float]:
    """Seconds of each epoch after the first, by the code in `tree`."""
    dataset = {"name": "embedded", "train": IMAGES, "validation": 200, "test": 200}
    options: dict[str, Any] = {"epochs": EPOCHS, "rung_epochs": 1, "batch_size": BATCH, "dataset": dataset}
    if policy is not None:
        options["policy"] = policy
    asked = json.dumps([preset, options, len(os.sched_getaffinity(0))])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, asked],
        env=os.environ | {"PYTHONPATH": str(tree)},
        cwd=tree,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
