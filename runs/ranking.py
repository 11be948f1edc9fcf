"""The ranking: which configuration is worth its device hours, and which the data cannot tell apart.

Formulas and how to read them: docs/ranking.md. Everything is computed from the ledger's trials, nothing is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import torch

from efficiency.errors import InputError
from nas.arms import Grid
from nas.grid import describe_point
from nas.pareto import first_front, fronts
from nas.statistics import Interval, difference_interval, mean_interval
from runs.beside import Neighbour, check_comparable
from runs.constraints import Check, checks_of
from runs.plan import breaking, found_by
from runs.spend import (
    SECONDS_PER_HOUR,
    ArmSpend,
    CostUnit,
    arm_spend,
    cost_unit,
    one_device,
    phase_hours,
)
from runs.study import Objective, Study
from runs.trial import Phase, RungRecord, Trial
from search_spaces import Configuration

SCHEMA = "naslab.rank/1"
RANKED = ("reference", "final")


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
    """A control or the random baseline: its metric over the trials named."""

    name: str
    metric: Interval
    trials: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"name": self.name, "metric": interval_dict(self.metric), "trials": list(self.trials)}


@dataclass(frozen=True)
class Ranking:
    """Rows in order of rank, those below the floor last, with what they are to be held against.

    `refused` are the configurations that break a constraint; they have no row.
    """

    study: str
    metric: str
    device: str
    cost_unit: CostUnit
    floor: float | None
    rows: tuple[Row, ...]
    controls: tuple[Baseline, ...]
    random: Baseline | None
    arms: tuple[ArmSpend, ...]
    phases: dict[Phase, float]
    refused: tuple[Refused, ...] = ()
    objective: Objective = field(default_factory=Objective)
    gain_over: str = "reference"
    beside: tuple[str, ...] = ()

    @property
    def against(self) -> str:
        """The cost of the fronts, with its unit."""
        costs = {"latency": "latency in ms", "flops": "FLOPs of a forward", "memory": "peak memory in GB"}
        return costs.get(self.objective.against or "", self.cost_unit.replace("_", " ") + " of a run")

    @property
    def reference(self) -> Row | None:
        """The row of the study's own published setting."""
        return next((row for row in self.own_rows if row.reference), None)

    @property
    def own_rows(self) -> tuple[Row, ...]:
        """The rows of the study itself, without those of studies beside it."""
        return tuple(row for row in self.rows if row.study == self.study)

    def to_dict(self) -> dict[str, Any]:
        """The document of `naslab rank --json`."""
        return {
            "schema": SCHEMA,
            "study": self.study,
            "metric": self.metric,
            "device": self.device,
            "cost_unit": self.cost_unit,
            "floor": self.floor,
            "rows": [row.to_dict() for row in self.rows],
            "controls": [control.to_dict() for control in self.controls],
            "random": self.random.to_dict() if self.random else None,
            "arms": [arm.to_dict() for arm in self.arms],
            "phase_hours": dict(self.phases),
            "refused": [one.to_dict() for one in self.refused],
            "objective": {**self.objective.model_dump(), "cost": self.against},
            "gain_over": self.gain_over,
            "beside": list(self.beside),
        }


def rank(study: Study, trials: Sequence[Trial], beside: Sequence[Neighbour] = ()) -> Ranking:
    """Rank the reference, finalists and points of a study by metric per device hour, or by Pareto front.

    Args:
        study: whose reference is the floor, and whose objective decides.
        trials: its trials.
        beside: other studies whose configurations are to stand in the ranking, too.

    Raises:
        InputError: different metrics, devices or benchmarks stand side by side, or a profile does not say where it was
            taken.
    """
    trials = sorted(trials, key=lambda t: t.number)
    metric = metric_name(study, trials)
    device = one_device(trials)
    _check_profiles(trials)
    scored = [t for t in trials if t.state == "complete" and metric in t.scores]
    spends = arm_spend(trials)
    reference = [t for t in scored if t.job.role == "reference"]
    reference += [t for t in scored if t.job.role == "final" and reference and _same(t, reference[0])]
    base = reference
    if study.ranking.gain_over != "reference":
        base = [t for t in scored if t.job.role == "control" and t.job.label == study.ranking.gain_over]
    frame = _Frame(metric, study.objective, tuple(base), _validation_bar(study, reference, metric))
    rows = _rows(study, trials, frame)
    floor = _floor(study, rows)
    for other in beside:
        theirs = sorted(other.trials, key=lambda t: t.number)
        there = {"metric": metric_name(other.study, theirs), "device": one_device(theirs)}
        check_comparable(study, {"metric": metric, "device": device}, other.study, there)
        _check_profiles(theirs)
        rows += [replace(row, name=f"{row.study}: {row.name}") for row in _rows(other.study, theirs, frame)]
    return Ranking(
        study=study.name,
        metric=metric,
        device=device,
        cost_unit=cost_unit(device),
        floor=floor,
        rows=_ordered(_with_pareto(rows), floor, study.objective),
        controls=_controls(scored, metric),
        random=_baseline("random architectures", [t for t in scored if t.job.role == "random"], metric),
        arms=spends,
        phases=phase_hours(trials),
        refused=_refused(study, trials),
        objective=study.objective,
        gain_over=study.ranking.gain_over,
        beside=tuple(other.study.name for other in beside),
    )


@dataclass(frozen=True)
class _Frame:
    """What every row of a ranking is measured by, of whatever study it is."""

    metric: str
    objective: Objective
    base: tuple[Trial, ...]
    """What the gain is over."""
    bar: float | None
    """The validation score from which the hours to the floor count."""


def _rows(study: Study, trials: Sequence[Trial], frame: _Frame) -> list[Row]:
    broken = breaking(study, trials)
    complete = [t for t in trials if t.state == "complete" and frame.metric in t.scores]
    groups = _group([t for t in complete if t.job.role in RANKED and t.job.configuration not in broken])
    spends, finders = arm_spend(trials), found_by(study, frame.metric, trials)
    return _with_costs([_row(study, group, frame, spends, finders) for group in groups], frame.objective, trials)


def _same(a: Trial, b: Trial) -> bool:
    return a.job.configuration == b.job.configuration


def metric_name(study: Study, trials: Sequence[Trial]) -> str:
    """The metric that the trials say they were scored by, or else the task's.

    Raises:
        InputError: trials of one study were scored by different metrics.
    """
    named = {str(t.result["metric"]): t.number for t in reversed(trials) if "metric" in t.result}
    if len(named) > 1:
        found = "; ".join(f"trial {number} by {name}" for name, number in sorted(named.items()))
        raise InputError(f"study {study.name}: scored by different metrics ({found}); they cannot be ranked together")
    metric = next(iter(named)) if named else study.make_task(torch.device("cpu")).metric
    for trial in trials:
        if trial.job.role in RANKED and trial.state == "complete" and metric not in trial.scores:
            have = ", ".join(sorted(trial.scores)) or "none"
            raise InputError(f"study {study.name}: trial {trial.number} has no score {metric!r}; its scores: {have}")
    return metric


def interval_dict(interval: Interval | None) -> dict[str, float | None] | None:
    """`mean`, `low` and `high` of an interval; the bounds are None with one seed."""
    if interval is None:
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _check_profiles(trials: Sequence[Trial]) -> None:
    for trial in trials:
        profile = trial.result.get("profile")
        if profile is not None and not profile.get("provenance"):
            raise InputError(
                f"trial {trial.number}: its profile has no provenance, so its figures cannot be told apart from "
                "another machine's; profile it again"
            )


def _group(trials: Sequence[Trial]) -> list[list[Trial]]:
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.job.configuration is not None:
            groups[trial.job.configuration.digest].append(trial)
    return [groups[digest] for digest in sorted(groups)]


def _row(
    study: Study,
    group: list[Trial],
    frame: _Frame,
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


def _mean_checks(group: Sequence[Trial]) -> list[Check]:
    """Each constraint with the mean over trials of what was found."""
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for trial in group:
        for check in checks_of(trial.result):
            found[check.constraint, check.limit].append(check.value)
    return [Check(name, fmean(values), limit) for (name, limit), values in found.items()]


def _refused(study: Study, trials: Sequence[Trial]) -> tuple[Refused, ...]:
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


def _by_seed(group: Sequence[Trial], value: Any) -> dict[int, float]:
    """One observation a seed: repeats of a seed are averaged, as they are no independent evidence."""
    values: dict[int, list[float]] = defaultdict(list)
    for trial in group:
        values[trial.job.seed].append(value(trial))
    return {seed: fmean(values[seed]) for seed in sorted(values)}


def _name(study: Study, configuration: Configuration, is_reference: bool, arms: tuple[str, ...]) -> str:
    parts = [f"reference (published {configuration.space})"] if is_reference else []
    points = {arm.name: describe_point(arm, configuration) for arm in study.arms if isinstance(arm, Grid)}
    named = [f"{arm} {points[arm]}" if points.get(arm) else arm for arm in arms]
    return f"{' + '.join([*parts, *named])} {configuration.digest[:6]}"


def _gain(group: Sequence[Trial], base: Sequence[Trial], metric: str, total_hours: float) -> Interval | None:
    if not base or any(trial is base[0] for trial in group):
        return None
    own, other = (list(_by_seed(g, lambda t: t.scores[metric]).values()) for g in (group, base))
    gain = difference_interval(own, other)
    low, high = (None if bound is None else bound / total_hours for bound in (gain.low, gain.high))
    return replace(gain, mean=gain.mean / total_hours, low=low, high=high)


def _validation_bar(study: Study, reference: Sequence[Trial], metric: str) -> float | None:
    floor = study.ranking.floor
    if floor == "none":
        return None
    if floor != "reference":
        return float(floor)
    curve = _curve(reference, metric)
    return curve[-1][0] if curve else None


def _hours_to_floor(group: Sequence[Trial], metric: str, bar: float | None) -> Interval | None:
    at = next((hours for score, hours in _curve(group, metric) if bar is not None and score >= bar), None)
    return mean_interval(at) if at else None


def _curve(group: Sequence[Trial], metric: str) -> list[tuple[float, list[float]]]:
    """Mean validation score over seeds and each seed's hours so far, at every rung that all trials reached."""
    rungs = [{rung.epoch: rung for rung in trial.rungs if metric in rung.scores} for trial in group]
    reached = {trial.number: by_epoch for trial, by_epoch in zip(group, rungs, strict=True)}
    curve = []
    for epoch in sorted(set.intersection(*map(set, rungs))) if rungs else []:
        scores = _by_seed(group, lambda t, at=epoch: reached[t.number][at].scores[metric])
        hours = _by_seed(group, lambda t, at=epoch: _seconds_at(t, reached[t.number][at]) / SECONDS_PER_HOUR)
        curve.append((fmean(scores.values()), list(hours.values())))
    return curve


def _seconds_at(trial: Trial, rung: RungRecord) -> float:
    return sum(trial.carried_seconds.values()) + rung.device_seconds


def _floor(study: Study, rows: Sequence[Row]) -> float | None:
    if study.ranking.floor == "reference":
        return next((row.metric.mean for row in rows if row.reference), None)
    return None if study.ranking.floor == "none" else float(study.ranking.floor)


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


def _points(rows: Sequence[Row]) -> list[tuple[float, float]]:
    return [(row.metric.mean, row.cost) for row in rows if row.cost is not None]


def _with_pareto(rows: Sequence[Row]) -> list[Row]:
    known = [i for i, row in enumerate(rows) if row.cost is not None]
    front = {known[k] for k in first_front(_points(rows))}
    return [replace(row, pareto=i in front) for i, row in enumerate(rows)]


def _by_front(rows: Sequence[Row]) -> list[Row]:
    """Ranked by the number of the front, along it from the cheapest; what was not profiled yet has no rank."""
    known = [row for row in rows if row.cost is not None]
    ranked = [replace(row, rank=number) for row, number in zip(known, fronts(_points(known)), strict=True)]
    ranked.sort(key=lambda row: (row.rank or 0, row.cost or 0.0, row.configuration.digest))
    return [*ranked, *(row for row in rows if row.cost is None)]


def _ordered(rows: Sequence[Row], floor: float | None, objective: Objective) -> tuple[Row, ...]:
    rows = sorted(rows, key=lambda row: (-row.score.mean, row.configuration.digest))
    above = [row for row in rows if _may_rank(row, floor)]
    below = [row for row in rows if not _may_rank(row, floor)]
    return (*(_by_front if objective.kind == "pareto" else _shared_ranks)(above), *below)


def _may_rank(row: Row, floor: float | None) -> bool:
    return not row.breaks and (floor is None or row.metric.mean >= floor)


def _shared_ranks(rows: Sequence[Row]) -> list[Row]:
    """Competition ranking (1, 1, 3): a row shares the rank of its group's first unless the data separate them."""
    ranked: list[Row] = []
    leader = None
    for position, row in enumerate(rows, start=1):
        if leader is None or _separable(leader, row):
            leader = replace(row, rank=position)
        ranked.append(replace(row, rank=leader.rank))
    return ranked


def _separable(a: Row, b: Row) -> bool:
    difference = difference_interval(a.scores_by_seed, b.scores_by_seed)
    return difference.low is not None and difference.high is not None and not difference.low <= 0 <= difference.high


def _controls(scored: Sequence[Trial], metric: str) -> tuple[Baseline, ...]:
    labels = sorted({t.job.label for t in scored if t.job.role == "control"})
    found = (
        _baseline(label, [t for t in scored if t.job.role == "control" and t.job.label == label], metric)
        for label in labels
    )
    return tuple(control for control in found if control is not None)


def _baseline(name: str, trials: Sequence[Trial], metric: str) -> Baseline | None:
    if not trials:
        return None
    return Baseline(name, mean_interval([t.scores[metric] for t in trials]), tuple(t.number for t in trials))
