"""The rows of a ranking: what each configuration cost and scored, over its trials.

Formulas: docs/ranking.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

from naslab.nas.arms import Grid
from naslab.nas.grid import describe_point
from naslab.nas.statistics import (
    Critical,
    Interval,
    mean_interval,
    over_runs,
    paired_interval,
    student,
)
from naslab.nas.verdict import Verdict
from naslab.runs.constraints import Check, checks_of
from naslab.runs.objective import Objective
from naslab.runs.past import breaking
from naslab.runs.plan import found_by
from naslab.runs.spend import SECONDS_PER_HOUR, ArmSpend, arm_spend
from naslab.runs.study import Study
from naslab.runs.trial import RungRecord, Trial
from naslab.search_spaces import Configuration

RANKED = ("reference", "final")
"""Roles of the trials that a row is made of."""
NO_TIME = 1e-12
"""Hours of a run too short for its clock."""


@dataclass(frozen=True)
class Row:
    """One configuration. Intervals are over seeds; `rank` is None below the floor or where a constraint is broken.

    `verdict` holds it against the floor, and `difference` is by how much it is better than that (negative: worse), also
    where less of the metric is better. Both are None without a floor.

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
    score: Interval | None
    """What ranks are decided on: metric, or gain, per device hour; None where the ratio has no meaning."""
    gain: Interval | None
    search_hours: float
    hours_to_floor: Interval | None
    pareto: bool
    trials: tuple[int, ...]
    metrics: Mapping[int, float]
    """By seed, as are `hours` and `scores`."""
    hours: Mapping[int, float]
    scores: Mapping[int, float]
    verdict: Verdict | None = None
    difference: Interval | None = None
    wall_hours: Interval | None = None
    """Of a run by the clock on the wall; None where `device_hours` are already."""
    threads: tuple[int, ...] = ()
    contended: tuple[int, ...] = ()
    """Trials whose run waited for its cores."""
    training_flops: float | None = None
    """Counted, of a training step on the profile's batch; None until profiled."""
    breaks: tuple[Check, ...] = ()
    """Constraints of the study that the reference breaks; it is trained all the same, and has no rank."""
    cost: float | None = None
    """What the metric is traded against (`Ranking.objective`): mean hours of a run, or a figure of the profile."""
    predicted_hours: Mapping[str, Any] = field(default_factory=dict)
    """Of one full training, by device that the study names; predicted, never measured."""

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
            "predicted_hours": dict(self.predicted_hours),
            "verdict": self.verdict,
            "difference": interval_dict(self.difference),
            "wall_hours": interval_dict(self.wall_hours),
            "threads": list(self.threads),
            "contended": list(self.contended),
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
    """A control or the random baseline: its metric over the trials named, one value each.

    `trained`: something was trained to get it; None where the trials, of an older version, do not say.
    """

    name: str
    metric: Interval
    trials: tuple[int, ...]
    values: tuple[float, ...] = ()
    trained: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "metric": interval_dict(self.metric),
            "trials": list(self.trials),
            "trained": self.trained,
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
    by: Literal["score", "gain"] = "score"
    critical: Critical = student


def rows_of(study: Study, trials: Sequence[Trial], frame: Frame) -> list[Row]:
    """A row for each configuration that keeps the constraints, not ranked yet."""
    broken = breaking(study, trials)
    complete = [t for t in trials if t.state == "complete" and frame.metric in t.scores]
    groups = _group([t for t in complete if t.job.role in RANKED and t.job.configuration not in broken])
    spends, finders = arm_spend(trials), found_by(study, frame.metric, trials)
    rows = [_row(study, group, frame, spends, finders) for group in groups]
    return _with_predictions(_with_costs(rows, frame.objective, trials), trials)


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
    values = tuple(t.scores[metric] for t in trials)
    return Baseline(name, mean_interval(values), tuple(t.number for t in trials), values, trained)


def validation_curve(group: Sequence[Trial], metric: str) -> list[tuple[float, list[float]]]:
    """Mean validation score over seeds and each seed's hours so far, at every rung that all trials reached."""
    rungs = [{rung.epoch: rung for rung in trial.rungs if metric in rung.scores} for trial in group]
    reached = {trial.number: by_epoch for trial, by_epoch in zip(group, rungs, strict=True)}
    curve = []
    for epoch in sorted(set.intersection(*map(set, rungs))) if rungs else []:
        here = {number: by_epoch[epoch] for number, by_epoch in reached.items()}
        scores, hours = _at_rung(group, here, metric)
        curve.append((fmean(scores.values()), list(hours.values())))
    return curve


def _at_rung(
    group: Sequence[Trial], rungs: Mapping[int, RungRecord], metric: str
) -> tuple[dict[int, float], dict[int, float]]:
    scores = by_seed(group, lambda t: rungs[t.number].scores[metric])
    return scores, by_seed(group, lambda t: _seconds_at(t, rungs[t.number]) / SECONDS_PER_HOUR)


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
    metrics = by_seed(group, lambda t: t.scores[frame.metric])
    run_hours = by_seed(group, lambda t: t.run_seconds / SECONDS_PER_HOUR)
    is_reference = any(t.job.role == "reference" for t in group)
    retrained_for = {t.job.arm for t in group if t.job.arm is not None}
    arms = tuple(sorted({*retrained_for, *finders.get(configuration.digest, ())}))
    search_hours = 0.0 if is_reference else sum(s.search_hours for s in spends if s.arm in arms)
    total_hours = search_hours + fmean(run_hours.values())
    scores = _scores(metrics, run_hours, total_hours, frame)
    return Row(
        rank=None,
        study=study.name,
        name=_name(study, configuration, is_reference, arms),
        configuration=configuration,
        reference=is_reference,
        arms=arms,
        seeds=tuple(metrics),
        metric=mean_interval(list(metrics.values()), frame.critical),
        device_hours=mean_interval(list(run_hours.values()), frame.critical),
        score=mean_interval(list(scores.values()), frame.critical) if scores else None,
        gain=_gain(group, frame, total_hours),
        search_hours=search_hours,
        hours_to_floor=_hours_to_floor(group, frame),
        pareto=False,
        trials=tuple(t.number for t in group),
        metrics=metrics,
        hours=run_hours,
        scores=scores,
        threads=tuple(sorted({t.threads for t in group if t.threads})),
        breaks=tuple(check for check in _mean_checks(group) if check.broken) if is_reference else (),
    )


def _scores(
    metrics: Mapping[int, float], hours: Mapping[int, float], total_hours: float, frame: Frame
) -> dict[int, float]:
    """What the order is decided on, by seed; empty where a ratio would mean nothing."""
    if frame.by == "gain":
        base = by_seed(frame.base, lambda t: t.scores[frame.metric])
        if not base:
            return {}
        mean, sign = fmean(base.values()), frame.objective.sign
        hours_paid = max(total_hours, NO_TIME)
        return {seed: sign * (value - base.get(seed, mean)) / hours_paid for seed, value in metrics.items()}
    if frame.objective.sign < 0 or any(value <= 0 for value in metrics.values()):
        return {}
    return {seed: value / max(hours[seed], NO_TIME) for seed, value in metrics.items()}


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


def by_seed(group: Sequence[Trial], value: Callable[[Trial], float]) -> dict[int, float]:
    """One observation a seed: repeats of a seed are averaged, as they are no independent evidence."""
    values: dict[int, list[float]] = defaultdict(list)
    for trial in group:
        values[trial.job.seed].append(value(trial))
    return {seed: fmean(values[seed]) for seed in sorted(values)}


def _gain(group: Sequence[Trial], frame: Frame, total_hours: float) -> Interval | None:
    """By how much the metric is better than the base's, per hour; paired where both have the same seeds."""
    if not frame.base or any(trial is frame.base[0] for trial in group) or not total_hours:
        return None
    own, other = (by_seed(g, lambda t: t.scores[frame.metric]) for g in (group, frame.base))
    if own.keys() == other.keys():
        gain = paired_interval(own, other, frame.critical)
    else:
        gain = over_runs(list(own.values()), list(other.values()), frame.critical)
    return gain.scaled(frame.objective.sign / total_hours)


def _hours_to_floor(group: Sequence[Trial], frame: Frame) -> Interval | None:
    bar, sign = frame.bar, frame.objective.sign
    if bar is None:
        return None
    curve = validation_curve(group, frame.metric)
    at = next((hours for score, hours in curve if sign * score >= sign * bar), None)
    return mean_interval(at, frame.critical) if at else None


def _seconds_at(trial: Trial, rung: RungRecord) -> float:
    return sum(trial.carried_seconds.values()) + rung.device_seconds


def _with_predictions(rows: Sequence[Row], trials: Sequence[Trial]) -> list[Row]:
    found = {t.job.configuration: t.result["predicted_hours"] for t in trials if t.result.get("predicted_hours")}
    return [replace(row, predicted_hours=found.get(row.configuration, {})) for row in rows]


def _with_costs(rows: Sequence[Row], objective: Objective, trials: Sequence[Trial]) -> list[Row]:
    profiles = {t.job.configuration: t.result["profile"] for t in trials if t.result.get("profile")}
    costed = []
    for row in rows:
        profile = profiles.get(row.configuration, {})
        cost = row.device_hours.mean if objective.cost is None else _of_profile(objective, profile)
        costed.append(replace(row, cost=cost, training_flops=(profile.get("flops") or {}).get("training_step")))
    return costed


def _of_profile(objective: Objective, profile: Mapping[str, Any]) -> float | None:
    match objective.against:
        case "latency":
            return (profile.get("latency_ms") or {}).get("median")
        case "flops":
            return (profile.get("flops") or {}).get("forward")
        case _:
            held = profile.get("peak_memory_bytes")
            return None if held is None else held / 1e9
