"""GPU hours of a training run on another device: steps times the predicted time of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.targets import HERE, Evidence, evidence_for, fit_in, step_seconds, target_name
from naslab.errors import InputError


@dataclass(frozen=True)
class Hours:
    """Predicted device hours with their interval; None with the reason `refused` where there is no evidence.

    `memory` says what the run needs, whether the device holds it and how many would, where that was forecast. Hours are
    those of one device: `memory["devices"]` devices take as many together, at best.
    """

    device: str
    hours: float | None
    low: float | None
    high: float | None
    basis: str
    refused: str | None = None
    memory: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_hours(
    step: FlopCount | None,
    steps: int,
    device: str,
    *,
    dtype: str = "bfloat16",
    passes: int = 1,
    loader_seconds: float = 0.0,
    needs_bytes: int | None = None,
) -> Hours:
    """Hours of `steps` training steps on a device of the table, or on this machine's processor ("cpu").

    Args:
        step: the counted training step; None where it cannot be counted.
        dtype: the number format that it trains in there.
        passes: how often a step goes forward and backward, such as once for each view of an image.
        loader_seconds: what the data loader needs for one batch with all its workers; it runs beside the steps, so
            the slower of the two sets the pace (MAE-ST, Feichtenhofer et al. 2022, table 1, is ruled by it).
        needs_bytes: forecast peak of the step.

    Raises:
        InputError: no such device, or fewer than no steps.
    """
    if steps < 0 or passes < 1:
        raise InputError(f"hours: {steps} steps of {passes} passes cannot be; steps begin at 0 and passes at 1")
    name = target_name(device)
    try:
        evidence = evidence_for(name)
    except InputError as error:  # this processor is not calibrated
        return Hours(name, None, None, None, "none", str(error))
    basis = evidence.basis
    memory = None if needs_bytes is None else fit_in(evidence.memory_bytes, needs_bytes)
    refused = partial(Hours, evidence.name, None, None, None, basis, memory=memory)
    if step is None:
        return refused(refused="the training step cannot be counted")
    try:
        known, trained = _trained_there(step, dtype, evidence)
        found = step_seconds(evidence, known, trained, training=True)
    except InputError as error:
        return refused(refused=str(error))
    hours, low, high = (
        steps * max(passes * seconds, loader_seconds) / 3600 for seconds in (found.seconds, found.low, found.high)
    )
    return Hours(evidence.name, hours, low, high, basis, memory=memory)


def _trained_there(step: FlopCount, dtype: str, evidence: Evidence) -> tuple[str, FlopCount]:
    """The number format of a training on a device, and the step in it; this machine's processor trains as counted."""
    if evidence.name == HERE:
        return "float32", step
    known = dtype if dtype in evidence.roof.flops_per_second else "float16"
    return known, _trained_in(step, known)


def _trained_in(step: FlopCount, dtype: str) -> FlopCount:
    """The step with its float32 work in another number format."""
    to: torch.dtype = getattr(torch, dtype)
    return FlopCount(
        tuple(
            replace(o, dtype=to, bytes_moved=o.bytes_moved * to.itemsize // o.dtype.itemsize)
            if o.dtype == torch.float32
            else o
            for o in step.operations
        )
    )


def study_hours(runs: Sequence[tuple[Hours, float]]) -> Hours | None:
    """The sum over runs, each made so often, which may be a part of once. None where there is no run.

    Their errors go together, as one model of the device made them all, so the ends of the intervals add up.
    Where any run is refused, so is the sum: hours without it would be too few.
    """
    if not runs:
        return None
    first = runs[0][0]
    most = max((hours.memory for hours, _ in runs if hours.memory), key=lambda m: m["needs_bytes"], default=None)
    refused = next((hours.refused for hours, _ in runs if hours.refused is not None), None)
    if refused is not None:
        return Hours(first.device, None, None, None, first.basis, refused, most)
    hours, low, high = (
        math.fsum(number * getattr(run, end) for run, number in runs) for end in ("hours", "low", "high")
    )
    return Hours(first.device, hours, low, high, first.basis, memory=most)
