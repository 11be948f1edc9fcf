"""The rows of a ranking: what each configuration cost and scored, over its trials.

Formulas: docs/ranking.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from naslab.nas.arms import Grid
from naslab.nas.grid import describe_point
from naslab.nas.statistics import Interval, difference_interval, mean_interval
from naslab.runs.constraints import Check, checks_of
from naslab.runs.plan import breaking, found_by
from naslab.runs.spend import SECONDS_PER_HOUR, ArmSpend, arm_spend
from naslab.runs.study import Objective, Study
from naslab.runs.trial import RungRecord, Trial
from naslab.search_spaces import Configuration

RANKED = ("reference", "final")
"""Roles of the trials that a row is made of."""


@dataclass(frozen=True)
class Row:
    """One configuration. Intervals are over seeds; `rank` is None below the floor or where a constraint is broken.

    `gain` is the gain over the reference per device hour, search included; None for the reference itself.
    `hours_to_floor` is None where the mean over seeds never got there. `study` is the one that `trials` are of.
    """

    rank: int | None
    study: str
    name: str
    configuration: Configuration
    reference: bool
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: Interval
    device_hours: Interval
    score: Interval
    gain: Interval | None
    search_hours: float
    hours_to_floor: Interval | None
    pareto: bool
    trials: tuple[int, ...]
    metrics_by_seed: tuple[float, ...]
    scores_by_seed: tuple[float, ...]
    """Metric per device hour in the order of `seeds`: what ranks are decided on."""
    breaks: tuple[Check, ...] = ()
    """Constraints of the study that the reference breaks; it is trained all the same, and has no rank."""
    cost: float | None = None
    """What the metric is traded against (`Ranking.objective`): mean hours of a run, or a figure of the profile."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the published schema."""
        return {
            "rank": self.rank,
            "study": self.study,
            "name": self.name,
            "configuration": self.configuration.as_dict(),
            "digest": self.configuration.digest,
            "reference": self.reference,
            "arms": list(self.arms),
            "seeds": list(self.seeds),
            "metric": interval_dict(self.metric),
            "device_hours": interval_dict(self.device_hours),
            "score": interval_dict(self.score),
            "gain_per_device_hour": interval_dict(self.gain),
            "search_hours": self.search_hours,
            "hours_to_floor": interval_dict(self.hours_to_floor),
            "pareto": self.pareto,
            "trials": list(self.trials),
            "breaks": [asdict(check) for check in self.breaks],
            "cost": self.cost,
        }


@dataclass(frozen=True)
class Refused:
    """A configuration that was not trained, or is not ranked, because it breaks a constraint of the study."""

    name: str
    configuration: Configuration
    breaks: tuple[Check, ...]
    trials: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "configuration": self.configuration.as_dict(),
            "digest": self.configuration.digest,
            "breaks": [asdict(check) for check in self.breaks],
            "trials": list(self.trials),
        }


@dataclass(frozen=True)
class Baseline:
    """A control or the random baseline: its metric over the trials named.

    `trained`: something was trained to get it; None where the trials, of an older version, do not say.
    """

    name: str
    metric: Interval
    trials: tuple[int, ...]
    trained: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "metric": interval_dict(self.metric),
            "trained": self.trained,
            "trials": list(self.trials),
        }


@dataclass(frozen=True)
class Frame:
    """What every row of a ranking is measured by, of whatever study it is."""

    metric: str
    objective: Objective
    base: tuple[Trial, ...]
    """What the gain is over."""
    bar: float | None
    """The validation score from which the hours to the floor count."""


def rows_of(study: Study, trials: Sequence[Trial], frame: Frame) -> list[Row]:
    """A row for each configuration that keeps the constraints, not ranked yet."""
    broken = breaking(study, trials)
    complete = [t for t in trials if t.state == "complete" and frame.metric in t.scores]
    groups = _group([t for t in complete if t.job.role in RANKED and t.job.configuration not in broken])
    spends, finders = arm_spend(trials), found_by(study, frame.metric, trials)
    return _with_costs([_row(study, group, frame, spends, finders) for group in groups], frame.objective, trials)


def refused_of(study: Study, trials: Sequence[Trial]) -> tuple[Refused, ...]:
    """By name, the configurations that break a constraint, with those trials in which they did."""
    found: dict[Configuration, list[Trial]] = defaultdict(list)
    for trial in trials:
        configuration = trial.job.configuration
        if configuration in breaking(study, [trial]):
            found[configuration].append(trial)
    made = [
        Refused(
            _name(study, configuration, False, tuple(sorted({t.job.arm or t.job.role for t in group}))),
            configuration,
            tuple(check for check in _mean_checks(group) if check.broken),
            tuple(t.number for t in group),
        )
        for configuration, group in found.items()
    ]
    return tuple(sorted(made, key=lambda one: (one.name, one.configuration.digest)))


def baseline(name: str, trials: Sequence[Trial], metric: str) -> Baseline | None:
    """The baseline of that name; None without trials."""
    if not trials:
        return None
    trained = trials[0].job.role == "random" or trials[0].result.get("trained")
    numbers = tuple(t.number for t in trials)
    return Baseline(name, mean_interval([t.scores[metric] for t in trials]), numbers, trained)


def validation_curve(group: Sequence[Trial], metric: str) -> list[tuple[float, list[float]]]:
    """Mean validation score over seeds and each seed's hours so far, at every rung that all trials reached."""
    rungs = [{rung.epoch: rung for rung in trial.rungs if metric in rung.scores} for trial in group]
    reached = {trial.number: by_epoch for trial, by_epoch in zip(group, rungs, strict=True)}
    curve = []
    for epoch in sorted(set.intersection(*map(set, rungs))) if rungs else []:
        scores = _by_seed(group, lambda t, at=epoch: reached[t.number][at].scores[metric])
        hours = _by_seed(group, lambda t, at=epoch: _seconds_at(t, reached[t.number][at]) / SECONDS_PER_HOUR)
        curve.append((fmean(scores.values()), list(hours.values())))
    return curve


def interval_dict(interval: Interval | None) -> dict[str, float | None] | None:
    """`mean`, `low` and `high` of an interval; the bounds are None with one seed."""
    if interval is None:
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _group(trials: Sequence[Trial]) -> list[list[Trial]]:
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.job.configuration is not None:
            groups[trial.job.configuration.digest].append(trial)
    return [groups[digest] for digest in sorted(groups)]


def _row(
    study: Study,
    group: list[Trial],
    frame: Frame,
    spends: Sequence[ArmSpend],
    finders: Mapping[str, Sequence[str]],
) -> Row:
    configuration = group[0].job.configuration
    assert configuration is not None
    metrics = _by_seed(group, lambda t: t.scores[frame.metric])
    run_hours = _by_seed(group, lambda t: t.run_seconds / SECONDS_PER_HOUR)
    scores = tuple(m / h for m, h in zip(metrics.values(), run_hours.values(), strict=True))
    is_reference = any(t.job.role == "reference" for t in group)
    retrained_for = {t.job.arm for t in group if t.job.arm is not None}
    arms = tuple(sorted({*retrained_for, *finders.get(configuration.digest, ())}))
    search_hours = 0.0 if is_reference else sum(s.search_hours for s in spends if s.arm in arms)
    return Row(
        rank=None,
        study=study.name,
        name=_name(study, configuration, is_reference, arms),
        configuration=configuration,
        reference=is_reference,
        arms=arms,
        seeds=tuple(metrics),
        metric=mean_interval(list(metrics.values())),
        device_hours=mean_interval(list(run_hours.values())),
        score=mean_interval(scores),
        gain=_gain(group, frame.base, frame.metric, search_hours + fmean(run_hours.values())),
        search_hours=search_hours,
        hours_to_floor=_hours_to_floor(group, frame.metric, frame.bar),
        pareto=False,
        trials=tuple(t.number for t in group),
        metrics_by_seed=tuple(metrics.values()),
        scores_by_seed=scores,
        breaks=tuple(check for check in _mean_checks(group) if check.broken) if is_reference else (),
    )


def _name(study: Study, configuration: Configuration, is_reference: bool, arms: tuple[str, ...]) -> str:
    parts = [f"reference (published {configuration.space})"] if is_reference else []
    points = {arm.name: describe_point(arm, configuration) for arm in study.arms if isinstance(arm, Grid)}
    named = [f"{arm} {points[arm]}" if points.get(arm) else arm for arm in arms]
    return f"{' + '.join([*parts, *named])} {configuration.digest[:6]}"


def _mean_checks(group: Sequence[Trial]) -> list[Check]:
    """Each constraint with the mean over trials of what was found."""
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for trial in group:
        for check in checks_of(trial.result):
            found[check.constraint, check.limit].append(check.value)
    return [Check(name, fmean(values), limit) for (name, limit), values in found.items()]


def _by_seed(group: Sequence[Trial], value: Any) -> dict[int, float]:
    """One observation a seed: repeats of a seed are averaged, as they are no independent evidence."""
    values: dict[int, list[float]] = defaultdict(list)
    for trial in group:
        values[trial.job.seed].append(value(trial))
    return {seed: fmean(values[seed]) for seed in sorted(values)}


def _gain(group: Sequence[Trial], base: Sequence[Trial], metric: str, total_hours: float) -> Interval | None:
    if not base or any(trial is base[0] for trial in group):
        return None
    own, other = (list(_by_seed(g, lambda t: t.scores[metric]).values()) for g in (group, base))
    gain = difference_interval(own, other)
    low, high = (None if bound is None else bound / total_hours for bound in (gain.low, gain.high))
    return replace(gain, mean=gain.mean / total_hours, low=low, high=high)


def _hours_to_floor(group: Sequence[Trial], metric: str, bar: float | None) -> Interval | None:
    at = next((hours for score, hours in validation_curve(group, metric) if bar is not None and score >= bar), None)
    return mean_interval(at) if at else None


def _seconds_at(trial: Trial, rung: RungRecord) -> float:
    return sum(trial.carried_seconds.values()) + rung.device_seconds


def _with_costs(rows: Sequence[Row], objective: Objective, trials: Sequence[Trial]) -> list[Row]:
    if objective.cost is None:
        return [replace(row, cost=row.device_hours.mean) for row in rows]
    profiles = {t.job.configuration: t.result["profile"] for t in trials if t.result.get("profile")}
    return [replace(row, cost=_of_profile(objective, profiles.get(row.configuration, {}))) for row in rows]


def _of_profile(objective: Objective, profile: Mapping[str, Any]) -> float | None:
    match objective.against:
        case "latency":
            return (profile.get("latency_ms") or {}).get("median")
        case "flops":
            return (profile.get("flops") or {}).get("forward")
        case _:
            held = profile.get("peak_memory_bytes")
            return None if held is None else held / 1e9
