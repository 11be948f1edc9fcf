"""Warm starts: what a sampler knows from the start, of another study of the same space.

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
from naslab.nas.sampling import Told
from naslab.runs.ledger import Ledger
from naslab.runs.plan import tell
from naslab.search_spaces import Configuration, SearchSpace

KEY = "warm_start"
MEASURED = ("reference", "random", "proposal", "final")
"""Roles of the trials that say something about a configuration."""
Knowledge: TypeAlias = Mapping[str, Sequence[Told]]
"""What each arm knows from the start, by its name."""


def warm_starts(ledger: Ledger, metric: str) -> Knowledge:
    """What the study's arms know from the start; an arm that has not run before takes it over now.

    Raises:
        InputError: a study that is not in the storage, is of another space or metric, or has measured nothing.
    """
    recorded = dict(ledger.attribute(KEY) or {})
    for arm in ledger.study.arms:
        if isinstance(arm, Sampled) and arm.warm_start and arm.name not in recorded:
            told = [one for name in arm.warm_start for one in _measured(ledger, arm, name, metric)]
            recorded[arm.name] = [{**asdict(one), "configuration": one.configuration.as_dict()} for one in told]
            ledger.set_attribute(KEY, recorded)
    return {name: tuple(_told(ledger.space, facts) for facts in told) for name, told in recorded.items()}


def _measured(ledger: Ledger, arm: Sampled, name: str, metric: str) -> list[Told]:
    """One measurement of each configuration: the mean over its trials, of the validation score."""
    where = f"arm {arm.name}: warm_start: {name}"
    other = Ledger.open(ledger.url, name)
    if other.study.space.name != ledger.study.space.name:
        raise InputError(f"{where} is of space {other.study.space.name}, not {ledger.study.space.name}")
    found: dict[Configuration, list[Told]] = {}
    for trial in other.trials():
        if trial.job.role in MEASURED and trial.state != "running" and trial.result.get("metric", metric) == metric:
            told = tell(other.study, trial, metric)
            configuration = _here(ledger.space, told.configuration)
            if told.value is not None and configuration is not None:
                found.setdefault(configuration, []).append(told)
    if not found:
        raise InputError(f"{where} has no score {metric!r} of a configuration that this space has")
    front = ledger.study.objective.kind == "pareto"
    return [_mean(configuration, told, front) for configuration, told in found.items()]


def _mean(configuration: Configuration, told: Sequence[Told], front: bool) -> Told:
    costs = [one.cost for one in told if one.cost is not None] if front else []
    return Told(
        configuration,
        fmean(one.value for one in told if one.value is not None),
        cost=fmean(costs) if costs else None,
    )


def _here(space: SearchSpace, configuration: Configuration) -> Configuration | None:
    """The same point of this space, None where it does not have it."""
    try:
        return space.configuration(configuration)
    except InputError:
        return None


def _told(space: SearchSpace, facts: Mapping[str, Any]) -> Told:
    return Told(space.configuration(facts["configuration"]), facts["value"], tuple(facts["violations"]), facts["cost"])
