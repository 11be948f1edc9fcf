"""The ranking: which configuration is worth its device hours, and which the data cannot tell apart.

Formulas and how to read them: docs/ranking.md. Everything is computed from the ledger's trials, nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from naslab.errors import InputError
from naslab.nas.pareto import first_front, fronts
from naslab.nas.statistics import difference_interval
from naslab.runs.beside import Neighbour, check_comparable
from naslab.runs.ranking_table import ranking_html, ranking_text
from naslab.runs.rows import RANKED, Baseline, Frame, Refused, Row, baseline, refused_of, rows_of, validation_curve
from naslab.runs.spend import ArmSpend, CostUnit, arm_spend, cost_unit, one_device, phase_hours
from naslab.runs.study import Objective, Study
from naslab.runs.trial import Phase, Trial

SCHEMA = "naslab.rank/1"


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
    frame = Frame(metric, study.objective, tuple(base), _validation_bar(study, reference, metric))
    rows = rows_of(study, trials, frame)
    floor = _floor(study, rows)
    for other in beside:
        theirs = sorted(other.trials, key=lambda t: t.number)
        there = {"metric": metric_name(other.study, theirs), "device": one_device(theirs)}
        check_comparable(study, {"metric": metric, "device": device}, other.study, there)
        _check_profiles(theirs)
        rows += [replace(row, name=f"{row.study}: {row.name}") for row in rows_of(other.study, theirs, frame)]
    return Ranking(
        study=study.name,
        metric=metric,
        device=device,
        cost_unit=cost_unit(device),
        floor=floor,
        rows=_ordered(_with_pareto(rows), floor, study.objective),
        controls=_controls(scored, metric),
        random=baseline("random architectures", [t for t in scored if t.job.role == "random"], metric),
        arms=spends,
        phases=phase_hours(trials),
        refused=refused_of(study, trials),
        objective=study.objective,
        gain_over=study.ranking.gain_over,
        beside=tuple(other.study.name for other in beside),
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


def _same(a: Trial, b: Trial) -> bool:
    return a.job.configuration == b.job.configuration


def _validation_bar(study: Study, reference: Sequence[Trial], metric: str) -> float | None:
    floor = study.ranking.floor
    if floor == "none":
        return None
    if floor != "reference":
        return float(floor)
    curve = validation_curve(reference, metric)
    return curve[-1][0] if curve else None


def _floor(study: Study, rows: Sequence[Row]) -> float | None:
    if study.ranking.floor == "reference":
        return next((row.metric.mean for row in rows if row.reference), None)
    return None if study.ranking.floor == "none" else float(study.ranking.floor)


def _controls(scored: Sequence[Trial], metric: str) -> tuple[Baseline, ...]:
    labels = sorted({t.job.label for t in scored if t.job.role == "control"})
    found = (
        baseline(label, [t for t in scored if t.job.role == "control" and t.job.label == label], metric)
        for label in labels
    )
    return tuple(control for control in found if control is not None)


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
