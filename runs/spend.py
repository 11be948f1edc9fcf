"""Where the device time went: by arm, by phase, by state, and in which unit it may be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from naslab.errors import InputError
from naslab.runs.trial import Phase, Trial

CostUnit = Literal["gpu_hours", "cpu_hours"]
SECONDS_PER_HOUR = 3600.0
NO_ARM = "(study)"
"""Stands for what belongs to no arm: controls, reference, random baseline."""


@dataclass(frozen=True)
class ArmSpend:
    """Device hours charged to one arm.

    `search_hours` are what its search takes: without the retraining of its finalists, and with what trials that were
    taken over had cost elsewhere.
    """

    arm: str
    device_hours: float
    search_hours: float
    states: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "arm": self.arm,
            "device_hours": self.device_hours,
            "search_hours": self.search_hours,
            "trials": self.states,
        }


def arm_spend(trials: Sequence[Trial]) -> tuple[ArmSpend, ...]:
    """Spend of every arm in order of name, the study's own (no arm) last; every state is charged."""
    arms = sorted({t.job.arm for t in trials if t.job.arm is not None})
    own = [t for t in trials if t.job.arm is None]
    spends = [_spend(arm, [t for t in trials if t.job.arm == arm]) for arm in arms]
    return (*spends, *([_spend(NO_ARM, own)] if own else []))


def _spend(arm: str, trials: Sequence[Trial]) -> ArmSpend:
    return ArmSpend(
        arm,
        hours(t.device_seconds for t in trials),
        hours(_own_cost(t) for t in trials if t.job.role in ("search", "proposal")),
        dict(sorted(Counter(t.state for t in trials).items())),
    )


def _own_cost(trial: Trial) -> float:
    return trial.device_seconds if trial.reused is None else trial.full_seconds


def phase_hours(trials: Iterable[Trial]) -> dict[Phase, float]:
    """Device hours by phase over all trials."""
    seconds: dict[Phase, float] = {}
    for trial in trials:
        for phase, spent in trial.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    return {phase: spent / SECONDS_PER_HOUR for phase, spent in seconds.items()}


def hours(seconds: Iterable[float]) -> float:
    """Sum of `seconds` in hours."""
    return sum(seconds) / SECONDS_PER_HOUR


def one_device(trials: Sequence[Trial]) -> str:
    """The one kind of device that every charged trial ran on, or "" when none was charged.

    Raises:
        InputError: hours of different devices, which cannot be added or compared, stand side by side.
    """
    numbers: dict[str, list[int]] = {}
    for trial in trials:
        if trial.device and trial.full_seconds:
            numbers.setdefault(device_kind(trial.device), []).append(trial.number)
    for bare in [kind for kind in numbers if any(other.startswith(f"{kind}: ") for other in numbers)]:
        del numbers[bare]  # failed before its device was asked for its name
    if len(numbers) > 1:
        places = "; ".join(f"{kind}: {_some(found)}" for kind, found in sorted(numbers.items()))
        raise InputError(f"hours of different devices cannot be ranked together ({places}); run the study on one kind")
    return next(iter(numbers), "")


def device_kind(device: str) -> str:
    """`device` without the index of a slot: cuda:0 and cuda:1 are one kind."""
    head, colon, index = device.rpartition(":")
    return head if colon and index.isdigit() else device


def cost_unit(device: str) -> CostUnit:
    """Hours of a CPU are never called GPU hours."""
    return "cpu_hours" if not device or device.lower().startswith("cpu") else "gpu_hours"


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:3]))
    return f"trials {shown}, ..." if len(numbers) > 3 else f"trials {shown}"
