"""A trial as a torchrun job: several processes on one machine train it together.

The worker starts torchrun, whose processes are this module (`torchrun_rank.py` is what they do), and takes the outcome
from the trail that process 0 leaves. They end together, with whatever they started: torchrun belongs to the worker's
process group, each of its processes ends with torchrun, and has a guard for its own children.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naslab.errors import InputError
from naslab.runs.events import Follower
from naslab.runs.executors import Slot, WorkerDied
from naslab.runs.log import captured
from naslab.runs.threads import usable_cores
from naslab.runs.trial import Job, Outcome, RungRecord

TOGETHER = ("reference", "random", "proposal", "final")
"""Roles whose training is shared; everything else is done by the worker itself."""
HOLDER = "NASLAB_TORCHRUN_HOLDER"
"""The variable that tells the processes the number of the worker, which holds torchrun, which holds them."""
FAULT = "fault.json"
"""What a process wrote that raised, while process 0 could not tell it."""


@dataclass(frozen=True)
class Request:
    """See run_job."""

    document: dict[str, Any]
    job: Job
    folder: Path
    slot: Slot
    awaited: int | None
    attempt: str | None

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return max(1, (self.slot.threads or usable_cores()) // self.slot.processes)


def run_together(request: Request, log: Path) -> tuple[Outcome, list[RungRecord]]:
    """`run_job` in as many processes as the slot says.

    Raises:
        InputError: as run_job; or what only one process can train.
        WorkerDied: one of them ended without an answer.
    """
    folder = request.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAULT).unlink(missing_ok=True)
    path = folder / "request.pickle"
    path.write_bytes(pickle.dumps(request))
    with captured(log):
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc-per-node={request.slot.processes}", "-m", "naslab.runs.torchrun_rank", str(path)),
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OMP_NUM_THREADS": str(request.threads),  # else torchrun says a word about it
                HOLDER: str(os.getpid()),
            },
            check=False,
        )
    path.unlink()
    follower = Follower(folder)
    follower.read()
    if follower.outcome is not None:
        return Outcome(**follower.outcome), follower.rungs
    if (folder / FAULT).exists():
        return _failed(folder, follower), follower.rungs
    raise WorkerDied(f"a process of its torchrun job ended without an answer (exit code {ended.returncode})")


def _failed(folder: Path, follower: Follower) -> Outcome:
    """The outcome of a trial of which another process than 0 raised."""
    fault = json.loads((folder / FAULT).read_text(encoding="utf-8"))
    if fault["input"]:
        raise InputError(fault["error"])
    return Outcome(
        state="interrupted" if fault["memory"] else "failed",
        seconds=follower.seconds(),
        device=follower.device,
        error=fault["error"],
        fault=fault["fault"],
        cause="memory" if fault["memory"] else None,
        core_seconds=follower.core_seconds(),
        threads=follower.threads,
        device_share=follower.share,
    )
