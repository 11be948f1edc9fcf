"""The status of a study: trials by state, seconds by phase and by state, and unaccounted seconds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from naslab.errors import InputError
from naslab.runs.events import Follower
from naslab.runs.ledger import Ledger
from naslab.runs.limits import forecast_hours, given_up, spent_hours
from naslab.runs.reuse import reused
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.runs.warm_start import warm_started

SCHEMA = "naslab.status/1"


def status(ledger: Ledger) -> dict[str, Any]:
    """The document of `naslab status --json`.

    `slot_seconds` is what the drivers held: slots times the time between a driver's start and its last sign of life.
    `unaccounted` is that less every charged second: waiting slots, and processes starting. `failures` are the jobs that
    were given up, by their last attempt. `budget` says what the study may spend, has spent, and is likely to need.
    `warm_starts` are the arms that began with another study's results, `reused` the trials that were taken over.
    """
    trials = ledger.trials()
    running = [Follower(ledger.files / "trials" / t.job.key) for t in trials if t.state == "running"]
    phases: dict[str, float] = defaultdict(float)
    states: dict[str, float] = defaultdict(float)
    for trial in trials:
        states[trial.state] += trial.device_seconds
        for phase, seconds in trial.seconds.items():
            phases[phase] += seconds
    slot_seconds = sum(s["slots"] * (s["seen"] - s["started"]) for s in ledger.sessions())
    return {
        "schema": SCHEMA,
        "study": ledger.study.name,
        "trials": dict(sorted(Counter(t.state for t in trials).items())),
        "device_seconds": {"by_phase": dict(phases), "by_state": dict(states), "total": sum(states.values())},
        "slot_seconds": slot_seconds,
        "unaccounted": slot_seconds - sum(states.values()),
        "failures": [
            {"trial": t.number, "key": t.job.key, "state": t.state, "error": t.error} for t in given_up(trials)
        ],
        "budget": {
            "limit_hours": ledger.study.limits.gpu_hours,
            "spent_hours": spent_hours(trials, running),
            "forecast_hours": _forecast(ledger.study, trials),
        },
        "warm_starts": warm_started(ledger),
        "reused": reused(trials),
    }


def _forecast(study: Study, trials: Sequence[Trial]) -> float | None:
    try:
        return forecast_hours(study, trials)
    except InputError:  # the space has changed since, and no longer has what is still to come
        return None
