"""One process of a trial's torchrun job: process 0 runs the trial, and the others train in step with it."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import signal
import sys
import traceback
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from naslab.efficiency.device import current, resolve_device
from naslab.errors import InputError
from naslab.runs.clock import count_peers
from naslab.runs.executors import WorkerDied
from naslab.runs.executors.guard import Guard
from naslab.runs.faults import in_one_line, place_of
from naslab.runs.processes import stat_fields
from naslab.runs.study import parse_study
from naslab.runs.torchrun import FAULT, HOLDER, Request
from naslab.runs.worker import CHECKPOINT, _run_job
from naslab.search_spaces import seed_everything
from naslab.search_spaces.common.training.together import PeerLost, agree, choose
from naslab.whole_file import write_whole

PATIENCE = timedelta(days=30)
"""So long the others wait while process 0 evaluates: limits are the driver's."""
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Take part in the trial whose request lies in the file that is named; the exit code."""
    _end_with_parent()
    guard = Guard()  # of what this process starts
    if os.getpgrp() == os.getpid():
        guard.watch(os.getpid())
    request: Request = pickle.loads(Path(sys.argv[1]).read_bytes())
    number = int(os.environ["RANK"])
    on_gpu = request.slot.device.startswith("cuda")
    device = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu")
    torch.set_num_threads(request.threads)
    threads = request.threads * request.slot.processes
    try:
        with current(device):
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
            choose(request.slot.parallel)
            _count_all()
            _lead(request, device, threads) if number == 0 else _follow(request, device)
    except (PeerLost, WorkerDied):
        traceback.print_exc()
        return 1
    except BaseException as problem:  # noqa: BLE001 - whatever a task raises is its trial's failure
        traceback.print_exc()
        _tell(request.folder, problem)
        return 1
    return 0


def _lead(request: Request, device: torch.device, threads: int) -> None:
    outcome, _ = _run_job(
        request.document, request.job, request.folder, nullcontext(), device, threads, request.awaited,
        request.slot.share, request.attempt,
    )  # fmt: skip
    if outcome.state == "failed":
        os._exit(1)  # torchrun then ends the others


def _follow(request: Request, device: torch.device) -> None:
    """Train in step with process 0, as long as that goes on."""
    study = parse_study(request.document, "the study", recorded=True)
    task = study.make_task(device)
    assert request.job.configuration is not None
    if not agree(True):
        return
    seed_everything(request.job.seed)
    model = study.search_space.build(request.job.configuration).to(device)
    for _ in task.train(model, request.job.seed, request.folder / CHECKPOINT):
        if not agree(True):
            return


def _tell(folder: Path, problem: BaseException) -> None:
    """Leave word of what was raised, unless another process has."""
    facts = {
        "error": str(problem) if isinstance(problem, InputError) else in_one_line(problem),
        "fault": place_of(problem),
        "input": isinstance(problem, InputError),
        "memory": isinstance(problem, torch.OutOfMemoryError),
    }
    write_whole(folder / FAULT, json.dumps(facts))


def _count_all() -> None:
    """Let process 0 charge the CPU time of all."""
    mine = torch.tensor([os.getpid()])
    pids = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(pids, mine)
    if dist.get_rank() == 0:
        count_peers(int(pid) for pid in pids[1:])


def _end_with_parent() -> None:
    """torchrun gives each process a session of its own, so that no signal to a group reaches them all."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before, while this one imported; the others would be waited for as long as PATIENCE says.
        if _parent_of(os.getppid()) not in (int(os.environ[HOLDER]), None):
            os._exit(1)


def _parent_of(number: int) -> int | None:
    """The parent of a process; None where it cannot be known."""
    fields = stat_fields(number)
    return None if fields is None else int(fields[1])


if __name__ == "__main__":
    sys.exit(main())
