"""Warm starts: a sampler's initial knowledge from another study of the same space.

It is taken over once, when an arm first runs, and recorded with the study: a study that goes on, or is replayed, asks
its samplers with the same knowledge, whatever became of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, TypeAlias

from naslab.errors import InputError
from naslab.nas.arms import Sampled
from naslab.nas.sampling import Observation
from naslab.runs.ledger import Ledger
from naslab.runs.past import tell
from naslab.search_spaces import Configuration, SearchSpace

KEY = "warm_start"
MEASURED = ("reference", "random", "proposal", "final")
"""Roles of the trials that say something about a configuration."""
Knowledge: TypeAlias = Mapping[str, Sequence[Observation]]
"""What each arm knows from the start, by its name."""


def warm_starts(ledger: Ledger, metric: str) -> Knowledge:
    """What the study's arms know from the start; an arm that has not run before takes it over now.

    Raises:
        InputError: a study that is not in the storage, is of another space or metric, or has measured nothing.
    """
    recorded = dict(ledger.attribute(KEY) or {})
    for arm in ledger.study.arms:
        if isinstance(arm, Sampled) and arm.warm_start and arm.name not in recorded:
            observations = [one for name in arm.warm_start for one in _measured(ledger, arm, name, metric)]
            recorded[arm.name] = [{**asdict(one), "configuration": one.configuration.as_dict()} for one in observations]
            ledger.set_attribute(KEY, recorded)
    return {
        name: tuple(_observation(ledger.space, facts) for facts in observations)
        for name, observations in recorded.items()
    }


def warm_started(ledger: Ledger) -> list[dict[str, Any]]:
    """The arms that began with what other studies measured: these studies, and of how many configurations."""
    recorded = ledger.attribute(KEY) or {}
    arms = [arm for arm in ledger.study.arms if isinstance(arm, Sampled) and arm.name in recorded]
    return [
        {"arm": arm.name, "studies": list(arm.warm_start), "configurations": len(recorded[arm.name])} for arm in arms
    ]


def _measured(ledger: Ledger, arm: Sampled, name: str, metric: str) -> list[Observation]:
    """One measurement of each configuration: the mean over its trials, of the validation score."""
    where = f"arm {arm.name}: warm_start: {name}"
    other = Ledger.open(ledger.url, name)
    if other.study.space.name != ledger.study.space.name:
        raise InputError(f"{where} is of space {other.study.space.name}, not {ledger.study.space.name}")
    found: dict[Configuration, list[Observation]] = {}
    for trial in other.trials():
        if trial.job.role in MEASURED and trial.state != "running" and trial.result.get("metric", metric) == metric:
            one = tell(other.study, trial, metric)
            configuration = _here(ledger.space, one.configuration)
            if one.value is not None and configuration is not None:
                found.setdefault(configuration, []).append(one)
    if not found:
        raise InputError(f"{where} has no score {metric!r} of a configuration that this space has")
    front = ledger.study.objective.kind == "pareto"
    return [_mean(configuration, observations, front) for configuration, observations in found.items()]


def _mean(configuration: Configuration, observations: Sequence[Observation], front: bool) -> Observation:
    costs = [one.cost for one in observations if one.cost is not None] if front else []
    return Observation(
        configuration,
        fmean(one.value for one in observations if one.value is not None),
        cost=fmean(costs) if costs else None,
    )


def _here(space: SearchSpace, configuration: Configuration) -> Configuration | None:
    """The same point of this space, None where it does not have it."""
    try:
        return space.configuration(configuration)
    except InputError:
        return None


def _observation(space: SearchSpace, facts: Mapping[str, Any]) -> Observation:
    return Observation(
        space.configuration(facts["configuration"]), facts["value"], tuple(facts["violations"]), facts["cost"]
    )
