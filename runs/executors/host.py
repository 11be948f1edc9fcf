"""A worker process on a cluster machine, held by a Ray actor or Slurm job for the driver."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from naslab.runs.executors.base import Slot
from naslab.runs.executors.guard import Guard
from naslab.runs.executors.process import WorkerProcess

if TYPE_CHECKING:
    from naslab.runs.executors.options import Ray, Slurm


def cluster_slot(choice: Ray | Slurm, gpus: float) -> Slot:
    """What a cluster gives each trial; its processes see the GPUs that are theirs alone."""
    threads = max(1, int(choice.cpus))
    return Slot("cuda:0" if gpus else "cpu", gpus or 1.0, threads, None, choice.processes, choice.parallel)


@dataclass(frozen=True)
class Surroundings:
    """What a process on another machine takes over from the driver's."""

    folder: str
    path: tuple[str, ...]
    """Where modules are looked for."""
    environment: Mapping[str, str]

    @classmethod
    def here(cls, environment: Mapping[str, str]) -> Surroundings:
        """This process's, with further variables."""
        here = os.getcwd()
        return cls(here, tuple(place or here for place in sys.path), environment)

    def enter(self) -> None:
        """Make them this process's own, as far as this machine has them."""
        os.environ.update(self.environment)
        with suppress(OSError):
            os.chdir(self.folder)
        sys.path += [place for place in self.path if place not in sys.path]


class Host:
    """One worker process in the driver's surroundings; it ends with this process, however that ends."""

    def __init__(self, surroundings: Surroundings) -> None:
        surroundings.enter()
        self._guard = Guard()
        with _without_main():
            self._process = WorkerProcess(self._guard)

    def call(self, request: bytes) -> bytes:
        """See WorkerProcess.exchange."""
        return self._process.exchange(request)

    def kill(self) -> None:
        """See WorkerProcess.kill."""
        self._process.kill()

    def renew(self) -> None:
        """Have a new process, if this one is of no more use."""
        with _without_main():
            self._process.renew()

    def close(self) -> None:
        """End it."""
        self._process.close()
        self._guard.close()


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is started inside does not import the main program, which is the cluster's here."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
