"""The objective: what makes one configuration better than another."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from naslab.runs.constraints import Cost
from naslab.search_spaces import Options


class Ranking(Options):
    """How the configurations are ordered: by accuracy per device hour among those as good as an accuracy floor."""

    floor: Literal["reference", "none"] | float = "reference"
    margin: float | None = Field(None, ge=0)
    """By how much a configuration may be worse than the floor, in units of the metric; default 1 point of a
    percentage, 1 % of the floor for any other metric."""
    by: Literal["score", "gain"] = "score"
    """What orders them: metric per hour, or gain over the base per hour, search included."""
    gain_over: str = "reference"
    """What the gain per hour is a gain over: the reference, or a control of the task by its name."""

    @field_validator("floor", mode="before")
    @classmethod
    def _is_a_floor(cls, floor: object) -> object:
        number = isinstance(floor, int | float) and not isinstance(floor, bool) and math.isfinite(floor)
        if not number and floor not in ("reference", "none"):
            raise ValueError(f"must be reference, none or a finite number, not {floor!r}")
        return floor


class Objective(Options):
    """What makes one configuration better than another: more metric per device hour, or a Pareto front."""

    kind: Literal["per_hour", "pareto"] = "per_hour"
    against: Literal["hours", "latency", "flops", "memory"] | None = None
    """What a front trades the metric against: hours of a run, or a figure of the profile."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether more of the metric is better, or less, as of a loss."""

    @model_validator(mode="after")
    def _fits(self) -> Objective:
        if self.kind == "pareto" and self.against is None:
            raise ValueError("pareto needs 'against': hours, latency, flops or memory")
        if self.kind == "per_hour" and self.against is not None:
            raise ValueError("'against' goes with kind: pareto only")
        return self

    @property
    def cost(self) -> Cost | None:
        """The cost to be found before a proposal is trained; None where there is none, or it is the hours."""
        costs: dict[str | None, Cost] = {"latency": "latency_ms", "flops": "flops", "memory": "memory_gb"}
        return costs.get(self.against)

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return 1 if self.direction == "maximize" else -1
