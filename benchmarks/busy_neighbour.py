"""The same study twice, the second time with busy loops beside it: ranks and verdicts should be equal, hours close.

Usage: python benchmarks/busy_neighbour.py [STUDY.yaml] [--loops 1]

To be run on a machine that is quiet otherwise. The study has a slot for each core, as in `make quickstart`: several
threads of one trial would wait for one another. Core hours are compared row by row, by the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results_file import write_result

from naslab.runs.threads import usable_cores

CLOSE = 0.05
"""Share by which hours may differ."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", default="quickstart")
    parser.add_argument("--loops", type=int, default=1, help="busy processes beside the second run")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    quiet = ranked(arguments.study)
    with busy(arguments.loops):
        loaded = ranked(arguments.study)
    rows = [compared(row, loaded) for row in quiet["rows"]]
    summary = {
        "loops": arguments.loops,
        "load_before": load,
        "order_equal": [row["digest"] for row in quiet["rows"]] == [row["digest"] for row in loaded["rows"]],
        "ranks_equal": all(row["rank"][0] == row["rank"][1] for row in rows),
        "verdicts_equal": all(row["verdict"][0] == row["verdict"][1] for row in rows),
        "metrics_equal": all(row["metric"][0] == row["metric"][1] for row in rows),
        "largest_difference_of_hours": max(abs(row["ratio_of_hours"] - 1) for row in rows if row["ratio_of_hours"]),
        "largest_difference_of_wall_hours": max(
            (abs(row["ratio_of_wall_hours"] - 1) for row in rows if row["ratio_of_wall_hours"]), default=None
        ),
    }
    summary["close"] = summary["largest_difference_of_hours"] <= CLOSE
    print(json.dumps(summary, indent=1))
    path = Path(__file__).parent / "results" / "busy_neighbour.json"
    document = {"schema": "naslab.busy_neighbour/1", "study": arguments.study, "summary": summary, "rows": rows}
    write_result(path, {**document, "clock": [quiet["clock"], loaded["clock"]]})


def ranked(study: str) -> dict[str, Any]:
    """The ranking of a study that is run from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        storage = ("--storage", str(Path(folder) / "naslab.db"))
        done = naslab("run", study, *storage, "--slots", str(usable_cores()), "--json")
        found: dict[str, Any] = json.loads(naslab("rank", json.loads(done)["study"], *storage, "--json"))
    return found


def naslab(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "naslab", *words], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@contextmanager
def busy(loops: int) -> Iterator[None]:
    processes = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(loops)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def spin() -> None:
    os.setsid()  # as another user's work: Linux shares cores among sessions before it does among processes
    while True:
        pass


def compared(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A row of the quiet run beside that of the loaded one, by its configuration; None where it has none there."""
    twin = next((r for r in other["rows"] if r["digest"] == row["digest"]), None)

    def both(key: str) -> list[Any]:
        return [row[key], None if twin is None else twin[key]]

    def ratio(key: str) -> float | None:
        first, second = ((one or {}).get("mean") for one in both(key))
        return second / first if first and second else None

    return {
        "name": row["name"],
        "rank": both("rank"),
        "verdict": both("verdict"),
        "metric": [one and one["mean"] for one in both("metric")],
        "ratio_of_hours": ratio("device_hours"),
        "ratio_of_wall_hours": ratio("wall_hours"),
    }


if __name__ == "__main__":
    main()
