"""Whole trainings of finished studies on this machine's processor, against the hours predicted for it.

Each study names `cpu` in `predict_for`, and ran where `naslab devices calibrate` had run with as many threads:

    OMP_NUM_THREADS=1 naslab devices calibrate
    OMP_NUM_THREADS=1 naslab run quickstart --set 'predict_for=[cpu]' --storage sqlite:///hours.db
    python benchmarks/run_hours.py sqlite:///hours.db quickstart ...

Measured is what the trainings took of one core, data and augmentation included, which are not in the prediction. A
calibration goes by the wall clock: on a busy machine it is too slow, and so are all hours predicted from it.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from results_file import RESULTS, write_result

from naslab.efficiency.hours import Hours
from naslab.runs.ledger import Ledger
from naslab.runs.locate import open_study
from naslab.runs.trial import Trial

TRAINED = ("reference", "random", "final")
"""Roles of jobs that train one configuration from beginning to end."""


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    """One for each training of full length whose configuration was predicted."""
    trials = ledger.trials()
    predicted = {
        trial.job.configuration: Hours(**trial.result["predicted_hours"]["cpu"])
        for trial in trials
        if trial.result.get("predicted_hours", {}).get("cpu", {}).get("hours")
    }
    known = [t for t in trials if t.state == "complete" and t.job.role in TRAINED and t.job.configuration in predicted]
    return [_row(ledger.study.name, trial, predicted[trial.job.configuration]) for trial in known]


def _row(study: str, trial: Trial, hours: Hours) -> dict[str, Any]:
    predicted, low, high = (3600 * float(end or 0) for end in (hours.hours, hours.low, hours.high))
    measured = trial.core_seconds["train"] / (trial.threads or 1)
    return {
        "study": study,
        "job": trial.job.key,
        "measured_seconds": measured,
        "predicted_seconds": predicted,
        "measured_over_predicted": measured / predicted,
        "held": low <= measured <= high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("storage")
    parser.add_argument("studies", nargs="+")
    arguments = parser.parse_args()
    found = [row for name in arguments.studies for row in rows(open_study(name, arguments.storage))]
    ratios = [row["measured_over_predicted"] for row in found]
    summary = {
        "trainings": len(found),
        "median_measured_over_predicted": median(ratios),
        "range": [min(ratios), max(ratios)],
        "held": sum(row["held"] for row in found) / len(found),
    }
    print(summary)
    write_result(RESULTS / "run_hours.json", {"schema": "naslab.run_hours/1", "summary": summary, "rows": found})


if __name__ == "__main__":
    main()
