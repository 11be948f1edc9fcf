"""The ranking: which configuration is worth its device hours, and which the data cannot tell apart.

Formulas and how to read them: docs/ranking.md. Everything is computed from the ledger's trials, nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from naslab.errors import InputError
from naslab.nas.pareto import first_front, fronts
from naslab.nas.statistics import Critical, mean_interval, paired_interval
from naslab.runs.answer import Answer, answer_of
from naslab.runs.beside import Neighbour, check_comparable
from naslab.runs.failures import failures_of
from naslab.runs.floor import floor_of, judged
from naslab.runs.hours import Clock, borrowed, by_clock, clock_of, doubts, taken_over
from naslab.runs.objective import Objective
from naslab.runs.predicted_hours import spent_hours
from naslab.runs.ranking_table import ranking_html, ranking_text
from naslab.runs.rows import (
    RANKED,
    Baseline,
    Frame,
    Row,
    baseline,
    by_seed,
    refused_of,
    rows_of,
    validation_curve,
)
from naslab.runs.spend import SECONDS_PER_HOUR, arm_spend, cost_unit, one_device, phase_hours
from naslab.runs.standing import Standing
from naslab.runs.study import Study
from naslab.runs.trial import Trial

SCHEMA = "naslab.rank/1"


@dataclass(frozen=True)
class Ranking(Standing):
    """A standing with its answer, and the document that both make."""

    @cached_property
    def answer(self) -> Answer:
        """The study's answer in words."""
        return answer_of(self)

    def __str__(self) -> str:
        """A table of the rows."""
        return ranking_text(self.to_dict())

    def _repr_html_(self) -> str:
        return ranking_html(self.to_dict())

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
            "by": self.by,
            "floor_of": self.floor_of,
            "margin": self.margin,
            "clock": self.clock,
            "failures": list(self.failures),
            "doubts": list(self.doubts),
            "predicted_hours": dict(self.predicted_hours),
            "answer": self.answer.to_dict(),
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
    recorded = sorted(trials, key=lambda t: t.number)
    metric = metric_name(study, recorded)
    device = one_device(recorded)
    _check_profiles(recorded)
    ledgers = {study.name: recorded, **{other.study.name: other.trials for other in beside}}
    clock = clock_of(ledgers.values())
    trials = by_clock(recorded, clock)
    scored = [t for t in trials if t.state == "complete" and metric in t.scores]
    frame = _frame(study, scored, metric)
    rows = _with_walls(rows_of(study, trials, frame), recorded, frame)
    for other in beside:
        rows += _rows_beside(study, other, frame, device, clock)
    _check_ratio(study, rows, metric)
    controls, random = _controls(scored, metric), _random(scored, metric)
    own = [row for row in rows if row.study == study.name]
    floor = floor_of(study, metric, own, [*controls, *([random] if random else [])])
    rows = judged(rows, floor, study.objective.sign, frame.critical)
    return Ranking(
        study=study.name,
        metric=metric,
        device=device,
        cost_unit=cost_unit(device),
        floor=None if floor is None else floor.value,
        rows=_ordered(_with_pareto(rows, study.objective), study.objective, frame.critical),
        controls=controls,
        random=random,
        arms=arm_spend(trials),
        phases=phase_hours(trials),
        refused=refused_of(study, trials),
        objective=study.objective,
        gain_over=study.ranking.gain_over,
        beside=tuple(other.study.name for other in beside),
        by=study.ranking.by,
        floor_of=None if floor is None else floor.of,
        margin=None if floor is None else floor.margin,
        clock=clock,
        failures=failures_of(study, recorded),
        doubts=(*doubts(rows, ledgers, clock), *borrowed(study), *taken_over(recorded)),
        predicted_hours=spent_hours(study, recorded),
        critical=frame.critical,
        better_critical=study.critical_of(len(rows)),
    )


def _frame(study: Study, scored: Sequence[Trial], metric: str) -> Frame:
    reference = [t for t in scored if t.job.role == "reference"]
    published = reference[0].job.configuration if reference else None
    reference += [t for t in scored if t.job.role == "final" and t.job.configuration == published]
    base = reference
    if study.ranking.gain_over != "reference":
        base = [t for t in scored if t.job.role == "control" and t.job.label == study.ranking.gain_over]
    bar = _validation_bar(study, reference, metric)
    return Frame(metric, study.objective, tuple(base), bar, study.ranking.by, study.critical)


def _rows_beside(study: Study, other: Neighbour, frame: Frame, device: str, clock: Clock) -> list[Row]:
    recorded = sorted(other.trials, key=lambda t: t.number)
    there = {"metric": metric_name(other.study, recorded), "device": one_device(recorded)}
    check_comparable(study, {"metric": frame.metric, "device": device}, other.study, there)
    _check_profiles(recorded)
    rows = _with_walls(rows_of(other.study, by_clock(recorded, clock), frame), recorded, frame)
    return [replace(row, name=f"{row.study}: {row.name}") for row in rows]


def _with_walls(rows: Sequence[Row], recorded: Sequence[Trial], frame: Frame) -> list[Row]:
    """The rows with what only the records say: hours on the wall, and the trials that waited for their cores."""
    by_number = {t.number: t for t in recorded}
    found = []
    for row in rows:
        group = [by_number[number] for number in row.trials]
        wall = by_seed(group, lambda t: t.run_wall_seconds / SECONDS_PER_HOUR)
        contended = tuple(t.number for t in group if t.contended)
        walls = mean_interval(list(wall.values()), frame.critical) if wall != row.hours else None
        found.append(replace(row, wall_hours=walls, contended=contended))
    return found


def _check_ratio(study: Study, rows: Sequence[Row], metric: str) -> None:
    """Refuse to order by a ratio that has no meaning.

    Raises:
        InputError: a metric that is 0 or negative, whose quotient by hours would put the dearer first.
    """
    if study.objective.kind == "pareto" or study.ranking.by == "gain":
        return
    for row in rows:
        if not row.scores:
            seed, worst = min(row.metrics.items(), key=lambda item: item[1])
            raise InputError(
                f"study {study.name}: {metric} is {worst:.4g} ({row.name}, seed {seed}): a ratio to hours needs a "
                "positive metric; use ranking.by: gain or objective.kind: pareto (direction: minimize for a loss)"
            )


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


def _check_profiles(trials: Sequence[Trial]) -> None:
    for trial in trials:
        profile = trial.result.get("profile")
        if profile is not None and not profile.get("provenance"):
            raise InputError(
                f"trial {trial.number}: its profile has no provenance, so its figures cannot be told apart from "
                "another machine's; profile it again"
            )


def _validation_bar(study: Study, reference: Sequence[Trial], metric: str) -> float | None:
    floor = study.ranking.floor
    if floor == "none":
        return None
    if floor != "reference":
        return float(floor)
    curve = validation_curve(reference, metric)
    return curve[-1][0] if curve else None


def _controls(scored: Sequence[Trial], metric: str) -> tuple[Baseline, ...]:
    groups: dict[str, list[Trial]] = {}
    for trial in scored:
        if trial.job.role == "control":
            groups.setdefault(trial.job.label, []).append(trial)
    found = (baseline(label, group, metric) for label, group in sorted(groups.items()))
    return tuple(control for control in found if control is not None)


def _random(scored: Sequence[Trial], metric: str) -> Baseline | None:
    return baseline("random architectures", [t for t in scored if t.job.role == "random"], metric)


def _points(rows: Sequence[Row], objective: Objective) -> list[tuple[float, float]]:
    return [(objective.sign * row.metric.mean, row.cost) for row in rows if row.cost is not None]


def _with_pareto(rows: Sequence[Row], objective: Objective) -> list[Row]:
    """The first front of what keeps the constraints: what may not be used is on no front."""
    known = [i for i, row in enumerate(rows) if row.cost is not None and not row.breaks]
    front = {known[k] for k in first_front(_points([rows[i] for i in known], objective))}
    return [replace(row, pareto=i in front) for i, row in enumerate(rows)]


def _by_front(rows: Sequence[Row], objective: Objective) -> list[Row]:
    """Ranked by the number of the front, along it from the cheapest; what was not profiled yet has no rank."""
    known = [row for row in rows if row.cost is not None]
    ranked = [replace(row, rank=number) for row, number in zip(known, fronts(_points(known, objective)), strict=True)]
    ranked.sort(key=lambda row: (row.rank or 0, row.cost or 0.0, row.configuration.digest))
    return [*ranked, *(row for row in rows if row.cost is None)]


def _ordered(rows: Sequence[Row], objective: Objective, critical: Critical) -> tuple[Row, ...]:
    """First what meets the floor, then the undecided, then what is below or breaks a constraint; each by score."""
    rows = sorted(rows, key=lambda row: (-_key(row, objective), row.configuration.digest))
    meets = [row for row in rows if not row.breaks and row.verdict in (None, "meets")]
    undecided = [row for row in rows if not row.breaks and row.verdict == "undecided"]
    rest = [row for row in rows if row.breaks or row.verdict == "below"]
    if objective.kind == "pareto":
        return (*_by_front([*meets, *undecided], objective), *rest)
    return (*_shared_ranks([*meets, *undecided], critical), *rest)


def _key(row: Row, objective: Objective) -> float:
    return objective.sign * row.metric.mean if row.score is None else row.score.mean


def _shared_ranks(rows: Sequence[Row], critical: Critical) -> list[Row]:
    """Competition ranking (1, 1, 3): a row shares the rank of its group's first unless the data separate them."""
    ranked: list[Row] = []
    leader = None
    for position, row in enumerate(rows, start=1):
        if leader is None or separable(leader, row, critical):
            leader = replace(row, rank=position)
        ranked.append(replace(row, rank=leader.rank))
    return ranked


def separable(a: Row, b: Row, critical: Critical) -> bool:
    """Whether the data tell the scores of two rows apart; hours of different threads are never compared."""
    if not a.scores or not b.scores or a.threads != b.threads:
        return False
    return paired_interval(a.scores, b.scores, critical).excludes_zero
