"""What a study found: runs it through `naslab run` and writes its ranking and every trial.

Usage: python benchmarks/study_result.py studies/keep_rates.yaml [--folder naslab-runs] [--slots 2] [--device cuda]
                                         [--out FILE] [--as-is]

Goes on where an earlier call stopped; with --as-is writes what has been measured so far. The result file,
benchmarks/results/<study>.json unless told, holds the study, its ranking and every finished trial with scores and
seconds; `table` shows each configuration beside the reference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from results_file import RESULTS, read_result, write_result

from naslab.nas.statistics import mean_interval, paired_interval
from naslab.runs.hours import by_clock, clock_of
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank


def run_study(path: str, storage: str, slots: int, changes: Mapping[str, Any] | None = None) -> Ledger:
    """Run a study to its end, with other values (`naslab run --set`) where told."""
    document = yaml.safe_load(Path(path).read_text(encoding="utf-8")) | (changes or {})
    command = [sys.executable, "-m", "naslab", "run", path, "--storage", storage, "--slots", str(slots)]
    for key, value in (changes or {}).items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Ledger.open(storage, document["name"])


def summarise(ledger: Ledger) -> dict[str, Any]:
    """The study, its ranking and its finished trials as plain values, their seconds by the ranking's clock."""
    recorded = ledger.trials()
    clock = clock_of([recorded])
    trials = [
        {
            "role": trial.job.role,
            "arm": trial.job.arm,
            "label": trial.job.label,
            "seed": trial.job.seed,
            "configuration": None if trial.job.configuration is None else trial.job.configuration.as_dict(),
            "scores": dict(trial.scores),
            "seconds": dict(trial.seconds),
        }
        for trial in by_clock(recorded, clock)
        if trial.state == "complete" and trial.job.role != "profile"
    ]
    return {
        "study": ledger.study.document(),
        "clock": clock,
        "ranking": rank(ledger.study, recorded).to_dict(),
        "trials": trials,
    }


def table(name: str, scores: Sequence[str]) -> str:
    """Scores of each configuration, those less the reference's seed by seed, and its training time, as Markdown."""
    found = read_result(name)
    if found is None:
        return f"{name}: not measured."
    trials, facts = found["trials"], found["provenance"]
    groups: dict[str, list[dict[str, Any]]] = {}
    reference = [t for t in trials if t["role"] == "reference"]
    for trial in trials:
        if trial["role"] in ("reference", "final", "control", "random"):
            groups.setdefault(_name(trial, reference[0]["configuration"]), []).append(trial)
    head = [
        "configuration",
        *(cell for score in scores for cell in (score, "less the reference")),
        "seeds",
        seconds_of(found),
    ]
    lines = [table_row([*head, "reference's time over its"]), table_row(["---"] * (len(head) + 1))]
    for group, members in groups.items():
        cells = [group]
        for score in scores:
            own, theirs = _column(members, score), _column(reference, score)
            cells.append(interval_text(asdict(mean_interval(list(own.values())))) if own else "")
            apart = len(own) > 1 and len(theirs) > 1 and group != "the reference"
            cells.append(interval_text(asdict(paired_interval(own, theirs)), sign=True) if apart else "")
        lines.append(table_row([*cells, str(len(members)), *_times(members, reference)]))
    task = found["study"]["task"]
    data = f"{task['dataset']['train']} training samples, " if "dataset" in task else ""
    size = f"{data}{task['epochs']} epochs"
    return "\n".join(
        [*lines, "", f"{size}; measured on {facts['device']}, torch {facts['torch']}, {facts['utc'][:10]}."]
    )


def interval_text(found: Mapping[str, Any], sign: bool = False) -> str:
    """A mean with its interval, where one can be had."""
    style = "+.2f" if sign else ".2f"
    mean, low, high = (found[key] for key in ("mean", "low", "high"))
    if low is None or high is None:
        return f"{mean:{style}}"
    return f"{mean:{style}} [{low:{style}}, {high:{style}}]"


def seconds_of(found: dict[str, Any]) -> str:
    """The head of a column of training seconds: by which clock they are; files of earlier days have those of a wall."""
    return "training core s" if found.get("clock") == "core" else "training s"


def table_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _name(trial: dict[str, Any], reference: dict[str, Any]) -> str:
    if trial["role"] == "control":
        return f"control: {trial['label']}"
    if trial["role"] == "random":
        return "random architectures"
    if "head" in reference:  # a cell of ten operations is no name
        return "the reference" if trial["role"] == "reference" else f"found by {trial['arm']}"
    changed = {k: v for k, v in trial["configuration"].items() if reference.get(k) != v}
    return ", ".join(f"{k} {_value(v)}" for k, v in changed.items()) or "the reference"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _column(trials: list[dict[str, Any]], score: str) -> dict[int, float]:
    """The score by seed; random architectures differ beside their seeds, so theirs are not shared."""
    return {
        -1 - number if trial["role"] == "random" else trial["seed"]: trial["scores"][score]
        for number, trial in enumerate(trials)
        if score in trial["scores"]
    }


def _times(trials: list[dict[str, Any]], reference: list[dict[str, Any]]) -> list[str]:
    """Training seconds, and the reference's over them, seed by seed."""
    seconds = {trial["seed"]: trial["seconds"].get("train") for trial in trials}
    if None in seconds.values():
        return ["", ""]
    theirs = {trial["seed"]: trial["seconds"]["train"] for trial in reference}
    ratios = [theirs[seed] / own for seed, own in seconds.items() if seed in theirs]
    return [interval_text(asdict(mean_interval(values))) for values in (list(seconds.values()), ratios)]


def main() -> None:
    """Run what is missing and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--folder", type=Path, default=Path("naslab-runs"))
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--as-is", action="store_true", help="run nothing more")
    arguments = parser.parse_args()
    storage = str(arguments.folder / "benchmark.db")
    if arguments.as_is:
        ledger = Ledger.open(storage, yaml.safe_load(Path(arguments.study).read_text(encoding="utf-8"))["name"])
    else:
        ledger = run_study(arguments.study, storage, arguments.slots, {"device": arguments.device})
    out = arguments.out or RESULTS / f"{ledger.study.name}.json"
    write_result(out, {"schema": "naslab.study_result/1", **summarise(ledger)}, arguments.device)


if __name__ == "__main__":
    main()
