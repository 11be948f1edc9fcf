"""Resident memory: the operating system's measure of a model, in a fresh process."""

from __future__ import annotations

import multiprocessing
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from naslab.efficiency.inputs import Inputs, call_model
from naslab.efficiency.training_step import NoTrainingStep, training_step_function
from naslab.errors import InputError

Rebuild: TypeAlias = Callable[[], tuple[nn.Module, Inputs]]
"""Makes a model and its inputs on the CPU; picklable, so that another process can call it."""


@dataclass(frozen=True)
class ResidentMemory:
    """Bytes. `peak` is the most that the process had resident, interpreter and libraries included, which is what an
    operating system that runs short judges by; `growth` is what of it came with model, inputs and run.
    """

    peak: int
    growth: int


def resident_memory(rebuild: Rebuild, *, training: bool = False) -> ResidentMemory:
    """Resident memory of a fresh process that makes the model and runs it: one inference, or two training steps with
    AdamW (the first makes the optimiser's state).

    Raises:
        InputError: `rebuild` cannot be sent to another process, there is nothing to train, the process ended without
            an answer (as where memory runs out), or the system does not tell.
    """
    if not Path("/proc/self/status").exists():
        raise InputError("resident memory: it is read from /proc, which this system does not have")
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(_measure, rebuild, training).result()
    except BrokenProcessPool:
        raise InputError(
            "resident memory: the fresh process ended without an answer; memory may have run out"
        ) from None
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"resident memory: the model cannot be made in a fresh process: {error}") from None


def _measure(rebuild: Rebuild, training: bool) -> ResidentMemory:
    # Libraries that are first loaded by making a model (on meta it comes without its weights) or by training one are
    # not the model's memory.
    with suppress(Exception), torch.device("meta"):
        rebuild()
    _train_something_small()
    before = _status("VmRSS")
    model, inputs = rebuild()
    if training:
        try:
            step = training_step_function(model, inputs)
        except NoTrainingStep as error:
            raise InputError(f"resident memory: the model has nothing to train: {error}") from None
        for _ in range(2):
            step()
    else:
        with torch.no_grad():
            call_model(model.eval(), inputs)
    peak = _status("VmHWM")
    return ResidentMemory(peak, peak - before)


def _train_something_small() -> None:
    training_step_function(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1)), torch.ones(1, 1, 1, 1))()


def _status(name: str) -> int:
    """Bytes from the kernel's record of this process (getrusage would tell the parent's peak)."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert match is not None
    return 1024 * int(match[1])
