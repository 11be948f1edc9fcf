"""Makes the executor of a study."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from naslab.runs.executors.base import Say, SlotExecutor
from naslab.runs.executors.local import LocalExecutor
from naslab.runs.executors.options import Local, Ray, Slurm, gpus_of
from naslab.runs.executors.slots import local_slots
from naslab.runs.extras import importing


class Workers:
    """A study's executor, made when it is first needed, and shut down once."""

    def __init__(self, make: Callable[[], SlotExecutor]) -> None:
        self._make = make
        self._executor: SlotExecutor | None = None

    def executor(self) -> SlotExecutor:
        """It, its workers starting.

        Raises:
            InputError: as `make_executor`.
        """
        if self._executor is None:
            self._executor = self._make()
        return self._executor

    def shutdown(self, cancel: bool) -> None:
        """End it: at once with `cancel`, else after its present calls."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(cancel_futures=cancel)


def make_executor(choice: Local | Ray | Slurm, slots: int, device: str, files: Path, say: Say) -> SlotExecutor:
    """The executor of a study's choice, its workers starting.

    Args:
        slots: calls that run at once.
        device: of the study: auto, cpu or cuda.
        files: the study's folder.
        say: takes a line where the user has to wait for the cluster.

    Raises:
        InputError: a device, a cluster or a package that is not there.
    """
    match choice:
        case Local():
            return LocalExecutor(local_slots(slots, device, choice.gpus, choice.processes, choice.parallel))
        case Ray():
            # Read when Ray is imported: no statistics to its makers, and no line of warning.
            for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
                os.environ.setdefault(name, "0")
            with importing("executor: ray", "ray"):
                from naslab.runs.executors.ray_cluster import RayExecutor
            return RayExecutor(choice, slots, gpus_of(choice, device), say)
        case Slurm():
            with importing("executor: slurm", "slurm"):
                from naslab.runs.executors.slurm import SlurmExecutor
            return SlurmExecutor(choice, slots, gpus_of(choice, device), files / "slurm", say)
