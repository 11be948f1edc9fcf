"""The contents of a ranking, from which its answer is derived."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from naslab.nas.statistics import Critical, student
from naslab.runs.hours import Clock
from naslab.runs.objective import Objective
from naslab.runs.rows import Baseline, Refused, Row
from naslab.runs.spend import ArmSpend, CostUnit
from naslab.runs.trial import Phase

HUGE = 1e9
"""Values of the metric from here on, such as a loss that has diverged, are written with an exponent."""


@dataclass(frozen=True)
class Standing:
    """Rows in order: those that meet the floor, the undecided, those below; with what they are to be held against.

    `refused` are the configurations that break a constraint; they have no row. `clock` says whether hours are core
    hours or wall hours. `failures` and `doubts` are lines that a reader must see above the table.
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
    by: str = "score"
    floor_of: str | None = None
    margin: float | None = None
    clock: Clock = "wall"
    failures: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    predicted_hours: Mapping[str, Any] = field(default_factory=dict)
    """Of the whole study so far, by device that it names; predicted, never measured."""
    critical: Critical = field(default=student, compare=False)
    """By how many standard errors the intervals reach: more than Student's where seeds race."""
    better_critical: Critical = field(default=student, compare=False)
    """The same for a claim that holds for all rows together: Bonferroni's over their number."""

    @property
    def against(self) -> str:
        """The cost of the fronts, with its unit."""
        costs = {"latency": "latency in ms", "flops": "FLOPs of a forward", "memory": "peak memory in GB"}
        return costs.get(self.objective.against or "", f"{self.unit}s of a run")

    @property
    def unit(self) -> str:
        """The unit of the hours in words, singular: core hours by the CPU clock are no wall hours."""
        if self.cost_unit == "gpu_hours":
            return "GPU hour"
        return "core hour" if self.clock == "core" else "CPU hour"

    def shown(self, value: float, sign: str = "") -> str:
        """A value of the metric, or a difference.

        Args:
            sign: "+" writes the sign of what is positive, too.
        """
        return f"{value:{sign}.6g}" if abs(value) >= HUGE else f"{value:{sign}.{self.decimals}f}"

    @cached_property
    def decimals(self) -> int:
        """Of the metric, as it is written: as many as its margin has, two at least.

        A margin of 0, or above every value, says nothing of them: a hundredth of the largest stands for it.
        """
        largest = max((abs(row.metric.mean) for row in self.rows), default=0.0)
        scale = self.margin if self.margin and self.margin <= largest else 0.01 * largest
        return 2 if not 0 < scale < 0.1 else min(1 - math.floor(math.log10(scale)), 15)

    @property
    def reference(self) -> Row | None:
        """The row of the study's own published setting."""
        return next((row for row in self.own_rows if row.reference), None)

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The controls, and the random architectures where there are any."""
        return (*self.controls, *([self.random] if self.random else []))

    @property
    def own_rows(self) -> tuple[Row, ...]:
        """The rows of the study itself, without those of studies beside it."""
        return tuple(row for row in self.rows if row.study == self.study)
