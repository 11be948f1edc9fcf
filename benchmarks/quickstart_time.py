"""Wall time of the quick start after installation, and how much of it is training.

Usage: python benchmarks/quickstart_time.py [--slots 2] [--out benchmarks/results/quickstart_time.json]

Runs the four commands of `make quickstart` in an empty folder. Goal on two cores: at most three minutes, of which at
least 80 % is training: device seconds of the phases train and search over the slots' seconds of `naslab run`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results_file import write_result

STUDY = Path("studies/quickstart.yaml")


def main() -> None:
    """Run the commands and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quickstart_time.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = ["--storage", str(Path(folder, "naslab.db"))]
        seconds, answers = {}, {}
        for command in (["run", str(STUDY), "--slots", str(arguments.slots)], ["rank"], ["export"], ["report"]):
            target = [] if command[0] == "run" else [str(STUDY)]
            started = time.perf_counter()
            line = [sys.executable, "-m", "naslab", *command, *target, *storage, "--json"]
            done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
            seconds[command[0]] = time.perf_counter() - started
            answers[command[0]] = json.loads(done.stdout)
    status = answers["run"]
    phases = status["device_seconds"]["by_phase"]
    share = (phases["train"] + phases["search"]) / (arguments.slots * seconds["run"])
    total = sum(seconds.values())
    print(f"{total:.0f} s in all, {100 * share:.0f} % of the slots' time in `naslab run` is training")
    write_result(
        arguments.out,
        {
            "schema": "naslab.quickstart_time/1",
            "seconds": seconds,
            "total_seconds": total,
            "training_share": share,
            "status": status,
            "ranking": answers["rank"],
        },
    )


if __name__ == "__main__":
    main()
