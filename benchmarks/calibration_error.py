"""How well `naslab devices calibrate` predicts models on the machine at hand: each of its suite from all others.

Usage: python benchmarks/calibration_error.py [--seconds 90] [--again]

To be run on a quiet machine, in about three minutes. Every sample is kept, so that another way to predict can be
judged later; with --again the times of the result file are analysed anew.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from results_file import write_result

from naslab.efficiency.calibration import calibrate
from naslab.efficiency.device import resolve_device
from naslab.efficiency.prediction import SCHEMA, StepTimes, leave_one_out
from naslab.efficiency.roofline import Roof
from naslab.efficiency.step_features import features
from naslab.efficiency.step_suite import measure_steps, suite_counts

PATH = Path(__file__).parent / "results" / "calibration_error.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0, help="for the models; the ceilings take 30 more")
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    facts: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    if arguments.again:
        earlier = json.loads(PATH.read_text())
        facts = {key: earlier[key] for key in ("load_before", "provenance")}
        measured = again(StepTimes.from_dict(earlier["steps"] | {"schema": SCHEMA}))
    else:
        device = resolve_device()
        measured = measure_steps(device, Roof.of(calibrate(device, seconds=20.0)), seconds=arguments.seconds)
    predicted, errors = leave_one_out(measured.steps), measured.errors()
    rows = [
        {"model": s.name, "training": s.training, "measured_ms": 1e3 * s.seconds, "predicted_ms": p and 1e3 * p}
        for s, p in zip(measured.steps, predicted, strict=True)
    ]
    summary = {
        "models": len({s.name for s in measured.steps}),
        "steps": len(rows),
        "refused": sum(p is None for p in predicted),
        "median_absolute_error": errors[len(errors) // 2],
        "p90_absolute_error": errors[int(0.9 * len(errors))],
        "largest_absolute_error": errors[-1],
        "factors": dict(measured.predictor().factors),
    }
    print(json.dumps(summary, indent=1))
    document = {"schema": "naslab.calibration_error/1", "summary": summary, "rows": rows, "steps": measured.to_dict()}
    write_result(PATH, {**document, **facts})


def again(measured: StepTimes) -> StepTimes:
    """The same samples with the features of this version, whatever version took them."""
    counts = suite_counts(torch.device("cpu"))
    steps = (
        replace(s, seconds=median(s.samples), features=features(counts[s.name, s.training], measured.roof))
        for s in measured.steps
    )
    return replace(measured, steps=tuple(steps))


if __name__ == "__main__":
    main()
