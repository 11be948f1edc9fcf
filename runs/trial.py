"""Job, Outcome and Trial: what to run, its result, and the ledger's record of both."""

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

State = Literal["running", "complete", "pruned", "failed", "timed_out", "interrupted"]
"""How a trial stands.

complete     it did all of its work
pruned       the study had seen enough of it, or it breaks a constraint
failed       its own fault, with its reason: it raised, or its worker died again and again without progress
timed_out    it held its slot for longer than the study allows
interrupted  not its fault: its driver died or was told to stop, its worker is gone, the budget is spent; it is tried
             again, from its checkpoint
"""

ENDED: frozenset[State] = frozenset({"complete", "pruned", "failed", "timed_out"})
"""Ends after which a job is done with."""

GIVEN_UP: frozenset[State] = frozenset({"failed", "timed_out"})
"""Ends after which a job is not tried again unless it is asked for (`naslab run --retry-failed`)."""

TRAININGS = ("reference", "random", "search", "proposal", "final")
"""Roles of jobs that train a model."""

Cause = Literal["driver", "worker", "node", "budget", "memory"]
"""What interrupted a trial: the end of its driver, the death of its worker, the loss of what that ran on (no attempt of
the trial's own), the study's budget, or a device whose memory was full: it is tried once more, alone."""

Phase = Literal["search", "train", "evaluate", "profile", "compile", "other"]

CONTENDED = 1.2
"""Wall time over core time per thread from which a run is said to have waited for others."""


@dataclass(frozen=True)
class Job:
    """One unit of work for one device slot. `key` names it for good: a study never completes a key twice."""

    key: str
    role: Role
    label: str
    seed: int
    configuration: Configuration | None = None
    arm: str | None = None
    pending: tuple[int, ...] = ()
    """Numbers of the arm's trials that still ran when the engine proposed this one; it had been told of all other
    trials of the arm that had begun before (for replay)."""


@dataclass(frozen=True)
class RungRecord:
    """One rung of a trial: its epoch, device seconds since the trial began, and the scores and facts there.

    Of a device that slots share, the seconds are this slot's share. They are negative where the rung came before: its
    trial was taken over from another study. `core_seconds` are those of the CPU clock; None in records of versions
    that did not read it.
    """

    epoch: int
    device_seconds: float
    scores: Mapping[str, float]
    core_seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a worker hands back. `seconds` are device seconds by phase of this attempt alone.

    `carried_seconds` are those of earlier, interrupted attempts whose checkpoint this one went on from: they are
    charged there, and belong to the cost of the run. `core_seconds` are by the CPU clock of the worker and its
    children, by phase as well, and `threads` those that torch was given. Each of n slots on one accelerator is
    charged for `device_share` = 1 / n of its wall time; `carried_wall_seconds` are carried by the clock on the wall.
    """

    state: Literal["complete", "pruned", "failed", "interrupted"]
    seconds: Mapping[Phase, float]
    device: str
    scores: Mapping[str, float] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able extras by role: a search's genotype and trajectory, a profile, provenance."""
    error: str | None = None
    fault: str | None = None
    """Kind and place of an exception: what two failures that are the same have in common."""
    cause: Cause | None = None
    carried_seconds: Mapping[Phase, float] = field(default_factory=dict)
    core_seconds: Mapping[Phase, float] = field(default_factory=dict)
    carried_core_seconds: Mapping[Phase, float] = field(default_factory=dict)
    threads: int | None = None
    device_share: float = 1.0
    carried_wall_seconds: Mapping[Phase, float] = field(default_factory=dict)


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
    fault: str | None = None
    cause: Cause | None = None
    carried_seconds: Mapping[Phase, float] = field(default_factory=dict)
    core_seconds: Mapping[Phase, float] = field(default_factory=dict)
    carried_core_seconds: Mapping[Phase, float] = field(default_factory=dict)
    threads: int | None = None
    device_share: float = 1.0
    carried_wall_seconds: Mapping[Phase, float] = field(default_factory=dict)

    @property
    def last_epoch(self) -> int:
        """The epoch of its last rung; 0 before the first."""
        return max((rung.epoch for rung in self.rungs), default=0)

    @property
    def device_seconds(self) -> float:
        """What this attempt is charged for of its device, all phases."""
        return sum(self.seconds.values())

    @property
    def run_seconds(self) -> float:
        """Device seconds of the run: train and evaluate.

        What compiled is the study's: kernels that are made once serve every later trial, so it is no row's own cost.
        """
        return _of_run(self.seconds) + _of_run(self.carried_seconds)

    @property
    def run_core_seconds(self) -> float:
        """The same by the CPU clock; 0 where it was not read."""
        return _of_run(self.core_seconds) + _of_run(self.carried_core_seconds)

    @property
    def wall_seconds(self) -> float:
        """What this attempt took by the clock on the wall, all phases."""
        return self.device_seconds / self.device_share

    @property
    def run_wall_seconds(self) -> float:
        """`run_seconds` by the clock on the wall."""
        carried = self.carried_wall_seconds or self.carried_seconds  # records of earlier versions: all of the device
        return _of_run(self.seconds) / self.device_share + _of_run(carried)

    @property
    def full_seconds(self) -> float:
        """What the job takes from its start, all phases: this attempt's seconds, and those that it went on from."""
        return self.device_seconds + sum(self.carried_seconds.values())

    @property
    def reused(self) -> Mapping[str, Any] | None:
        """The `study` and `trial` that it was taken over from; None where it ran itself."""
        return self.result.get("reused")

    @property
    def contended(self) -> bool:
        """Whether the run waited for its cores: its wall time exceeds its core time over its threads by a fifth.

        On a GPU the cores wait for the device, whatever else runs.
        """
        on_cpu = not self.device or self.device.lower().startswith("cpu")
        if not on_cpu or not self.threads or not self.run_core_seconds:
            return False
        return self.run_wall_seconds > CONTENDED * self.run_core_seconds / self.threads


def summed(a: Mapping[Phase, float], b: Mapping[Phase, float]) -> dict[Phase, float]:
    """Seconds of both, by phase."""
    return {phase: a.get(phase, 0.0) + b.get(phase, 0.0) for phase in {**a, **b}}


def _of_run(seconds: Mapping[Phase, float]) -> float:
    return seconds.get("train", 0.0) + seconds.get("evaluate", 0.0)
