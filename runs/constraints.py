"""Constraints: what a configuration may cost at most, counted or measured before it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from pydantic import Field
from torch import nn

from naslab.efficiency.flops import count_forward
from naslab.efficiency.inputs import Inputs, call_model, map_tensors
from naslab.efficiency.latency import measure_latency
from naslab.efficiency.memory import peak_memory_bytes
from naslab.search_spaces import Configuration, Options, SearchSpace, Task, seed_everything

PROFILE_BATCH = 64
"""Samples in the batch that a study's configurations are profiled with."""

Cost: TypeAlias = Literal["latency_ms", "params", "memory_gb", "flops"]
COUNTED: tuple[Cost, ...] = ("params", "flops")
"""Costs that follow from the shapes alone, so that a dry run can tell them."""


class Constraints(Options):
    """Upper limits on what one inference batch of a configuration costs, the same figures as in its profile."""

    max_latency_ms: float | None = Field(None, gt=0)
    """Median time of the forward on the study's device."""
    max_params: int | None = Field(None, gt=0)
    max_memory_gb: float | None = Field(None, gt=0)
    """Peak memory of the forward in 1e9 bytes: parameters, inputs and everything held between."""
    max_flops: float | None = Field(None, gt=0)
    """FLOPs of the forward of the whole batch; a multiply-add is 2."""
    batch_size: int = Field(PROFILE_BATCH, gt=0)
    """Samples in the batch; 1 makes `max_flops` a limit per sample."""

    @property
    def limits(self) -> dict[Cost, float]:
        """The limits that are set, by cost."""
        given: dict[Cost, float | None] = {
            "latency_ms": self.max_latency_ms,
            "params": self.max_params,
            "memory_gb": self.max_memory_gb,
            "flops": self.max_flops,
        }
        return {cost: limit for cost, limit in given.items() if limit is not None}

    def judge(self, costs: Mapping[Cost, float]) -> list[Check]:
        """Each limit held against the cost that was found; costs that are not given are left out."""
        return [Check(f"max_{c}", costs[c], limit) for c, limit in self.limits.items() if c in costs]


@dataclass(frozen=True)
class Check:
    """One constraint, what the configuration costs, and the limit."""

    constraint: str
    value: float
    limit: float

    @property
    def broken(self) -> bool:
        """Whether the value is above the limit."""
        return self.value > self.limit

    @property
    def excess(self) -> float:
        """Share of the limit by which the value is above it; 0 or less where it is kept."""
        return self.value / self.limit - 1

    def __str__(self) -> str:
        """Name, value and limit."""
        return f"{self.constraint}: {_figure(self.value)} > {_figure(self.limit)}"


def checks_of(result: Mapping[str, object]) -> list[Check]:
    """The checks that a trial's result records; empty where the study has no constraint."""
    found = result.get("constraints", ())
    assert isinstance(found, Iterable)
    if not found:
        return []
    return [Check(**check) for check in found]


def find_costs(
    wanted: Iterable[Cost], space: SearchSpace, configuration: Configuration, task: Task, batch: int
) -> dict[Cost, float]:
    """The costs asked for, of one inference batch, on models built for this and thrown away.

    Parameters and FLOPs are counted on meta tensors where the model allows it; latency and memory are measured on the
    task's device.
    """
    names = set(wanted)
    if not names:
        return {}
    inputs = task.example_input(batch)
    costs: dict[Cost, float] = {}
    if names & set(COUNTED):
        costs.update(_counted(space, configuration, inputs, task.device))
    if names - set(COUNTED):
        costs.update(_measured(names, _build(space, configuration, task.device), inputs, task.device))
    return {name: value for name, value in costs.items() if name in names}


def _counted(
    space: SearchSpace, configuration: Configuration, inputs: Inputs, device: torch.device
) -> dict[Cost, float]:
    try:
        with torch.device("meta"):
            shapes = space.build(configuration).to("meta")
        return _count(shapes, map_tensors(lambda t: t.to("meta"), inputs))
    except Exception:  # noqa: BLE001 - some models need real values to run; an error of the model's own comes back
        return _count(_build(space, configuration, device), inputs)


def _count(model: nn.Module, inputs: Inputs) -> dict[Cost, float]:
    params = sum(p.numel() for p in model.parameters())
    return {"params": params, "flops": count_forward(model, inputs).total}


def _measured(names: set[Cost], model: nn.Module, inputs: Inputs, device: torch.device) -> dict[Cost, float]:
    costs: dict[Cost, float] = {}
    with torch.no_grad():
        if "latency_ms" in names:
            costs["latency_ms"] = measure_latency(lambda: call_model(model, inputs), device).median
        if "memory_gb" in names:
            costs["memory_gb"] = peak_memory_bytes(model, inputs) / 1e9
    return costs


def _build(space: SearchSpace, configuration: Configuration, device: torch.device) -> nn.Module:
    seed_everything(0)
    return space.build(configuration).to(device).eval()


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 1e4 else f"{value:.4g}"
