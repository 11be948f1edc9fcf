"""Job, Outcome and Trial: what is to be run, what came of it, and the ledger's record of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from naslab.search_spaces import Configuration

Role = Literal["control", "reference", "random", "search", "proposal", "final", "profile"]
"""Why a trial was run.

control    raw pixels, untrained backbone: no search at all (name in `Job.label`)
reference  the published setting, once per seed, scored on the test split
random     a random architecture of the baseline, scored on the test split
search     one run of the differentiable engine; its result is a genotype
proposal   one configuration proposed by an Optuna engine, scored on the validation split
final      the best of an arm, retrained once per seed, scored on the test split: only these are ranked
profile    FLOPs, latency and memory of a ranked configuration, measured while nothing else runs
"""

State = Literal["running", "complete", "pruned", "failed", "killed"]
"""`failed`: the trial itself raised; it is not tried again. `killed`: its process died; it is tried again."""

Phase = Literal["search", "train", "evaluate", "profile", "compile", "other"]


@dataclass(frozen=True)
class Job:
    """One unit of work for one device slot. `key` names it for good: a study never completes a key twice."""

    key: str
    role: Role
    label: str
    seed: int
    configuration: Configuration | None = None
    arm: str | None = None
    informed_by: tuple[int, ...] = ()
    """Numbers of the trials that the engine had been told when it proposed this one (for replay)."""


@dataclass(frozen=True)
class RungRecord:
    """One rung of a trial: its epoch, device seconds since the trial began, and the scores and facts there."""

    epoch: int
    device_seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a worker hands back. `seconds` are device seconds by phase of this attempt alone.

    `carried_seconds` are those of earlier, killed attempts whose checkpoint this one went on from: they are
    charged there, and belong to the cost of the run.
    """

    state: Literal["complete", "pruned", "failed"]
    seconds: Mapping[Phase, float]
    device: str
    scores: Mapping[str, float] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able extras by role: a search's genotype and trajectory, a profile, provenance."""
    error: str | None = None
    carried_seconds: Mapping[Phase, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """The ledger's record of a job: made by `Ledger.trials()` alone."""

    number: int
    job: Job
    state: State
    rungs: tuple[RungRecord, ...] = ()
    seconds: Mapping[Phase, float] = field(default_factory=dict)
    device: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    carried_seconds: Mapping[Phase, float] = field(default_factory=dict)

    @property
    def device_seconds(self) -> float:
        """Every second that this attempt held a device, all phases."""
        return sum(self.seconds.values())

    @property
    def run_seconds(self) -> float:
        """Cost of the run as a user of the configuration would pay it: train, evaluate and compile."""
        phases: tuple[Phase, ...] = ("train", "evaluate", "compile")
        return sum(self.seconds.get(p, 0.0) + self.carried_seconds.get(p, 0.0) for p in phases)
