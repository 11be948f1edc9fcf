"""The floor of the non-inferiority test, and the verdict on each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from naslab.nas.statistics import Critical, Interval, interval_over
from naslab.nas.verdict import judge
from naslab.runs.rows import Baseline, Row
from naslab.runs.study import Study


@dataclass(frozen=True)
class Floor:
    """The floor's metric, whose it is, and how far below it a row may be; `by_seed` is empty where it is a number."""

    value: float
    of: str
    margin: float
    by_seed: Mapping[int, float]
    values: tuple[float, ...] = ()
    """Of a baseline, whose runs share no seeds with the rows'."""

    def difference(self, row: Row, sign: int, critical: Critical) -> Interval:
        """By how much `row` is better, paired by seed where the floor has seeds."""
        return interval_over(row.metrics, self.by_seed or self.values or (self.value,), critical).scaled(sign)


def floor_of(study: Study, metric: str, rows: Sequence[Row], baselines: Sequence[Baseline]) -> Floor | None:
    """The study's floor: its reference, a number, or none.

    A reference that breaks a constraint is no floor for those that keep it: the best baseline stands for it, if any.
    """
    asked = study.ranking.floor
    if asked == "none":
        return None
    if asked != "reference":
        return Floor(asked, "given", study.margin(metric, asked), {})
    reference = next((row for row in rows if row.reference), None)
    if reference is not None and not reference.breaks:
        return Floor(reference.metric.mean, "reference", study.margin(metric, reference.metric.mean), reference.metrics)
    if reference is None or not baselines:
        return None
    best = max(baselines, key=lambda one: study.objective.sign * one.metric.mean)
    return Floor(best.metric.mean, best.name, study.margin(metric, best.metric.mean), {}, best.values)


def judged(rows: Sequence[Row], floor: Floor | None, sign: int, critical: Critical) -> list[Row]:
    """The rows with their verdicts; the floor meets itself."""
    if floor is None:
        return list(rows)
    found = []
    for row in rows:
        if row.metrics is floor.by_seed:
            found.append(replace(row, difference=Interval(0.0, 0.0, 0.0), verdict="meets"))
            continue
        difference = floor.difference(row, sign, critical)
        found.append(replace(row, difference=difference, verdict=judge(difference, floor.margin)))
    return found
