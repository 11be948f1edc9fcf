"""What a driver needs to know of a study's task; on a cluster a worker reports it, so no data or GPU is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from naslab.efficiency.device import device_name, resolve_device, resolve_kind
from naslab.runs.executors.base import Say, Slot, SlotExecutor, WorkerDied
from naslab.runs.executors.choose import Workers
from naslab.runs.executors.options import Local
from naslab.runs.executors.process import prepare_copies
from naslab.runs.ledger import Ledger
from naslab.runs.made_with import code_of, made_with
from naslab.runs.study import Study, parse_study
from naslab.runs.threads import threads_per_slot, usable_cores
from naslab.search_spaces import Task

ATTRIBUTE = "facts"
"""Under which name the ledger keeps them."""


@dataclass(frozen=True)
class ControlFacts:
    """What a plan knows of a control (plan.NamedControl)."""

    name: str
    seeded: bool


@dataclass(frozen=True)
class Facts:
    """Of a task, and of the machine that trains it."""

    metric: str
    max_epochs: int
    controls: tuple[ControlFacts, ...]
    made_with: Mapping[str, str]
    device: str
    """Kind and maker's name."""
    threads: int
    """CPU threads of a trial."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Facts:
        """Back from plain values."""
        return cls(**{**values, "controls": tuple(ControlFacts(**control) for control in values["controls"])})


def check_here(study: Study) -> None:
    """Where its trials run on this machine: see that the data is there, while workers begin to import.

    Raises:
        InputError: data that is missing or does not fit.
    """
    if isinstance(study.executor, Local):  # elsewhere it may be where the workers are
        prepare_copies()
        study.make_checked_task(torch.device("cpu"))


def find_facts(ledger: Ledger, slots: int, workers: Workers, say: Say) -> Facts:
    """Those of the ledger's study: this machine's where it has the workers; else as recorded, or as a worker says.

    Raises:
        InputError: data that is missing or does not fit, or no such device, where the trials would run.
    """
    study = ledger.study
    if isinstance(study.executor, Local):
        task = study.make_task(torch.device("cpu"))
        return _facts(task, resolve_kind(study.device), threads_per_slot(slots))
    recorded = None if study.reuse else ledger.attribute(ATTRIBUTE)  # what is reused must be made with the same data
    if recorded is not None and recorded["made_for"] == _made_for(study):
        return Facts.read(recorded["facts"])
    say("asking a worker for the facts of the task")
    return _asked(study, workers.executor(), say)


def _asked(study: Study, executor: SlotExecutor, say: Say) -> Facts:
    """What a worker says; where it dies, on a node that is lost perhaps, the next is asked, as often as for a trial."""
    deaths = 0
    while True:
        try:
            found: Facts = executor.submit(describe, study.document()).result()
            return found
        except WorkerDied as death:
            deaths += 1
            if deaths >= study.limits.attempts:
                raise
            say(f"{death}; asking again")


def record_facts(ledger: Ledger, facts: Facts) -> None:
    """Keep what a worker said, so that none has to be asked again."""
    if not isinstance(ledger.study.executor, Local):
        ledger.set_attribute(ATTRIBUTE, {"made_for": _made_for(ledger.study), "facts": asdict(facts)})


def describe(document: dict[str, Any], slot: Slot) -> Facts:
    """The facts of a study's task, as the worker in `slot` finds them."""
    task = parse_study(document, "the study", recorded=True).make_checked_task(torch.device("cpu"))
    return _facts(task, resolve_device(slot.device), slot.threads or usable_cores())


def _facts(task: Task, device: torch.device, threads: int) -> Facts:
    controls = tuple(ControlFacts(control.name, control.seeded) for control in task.controls())
    return Facts(task.metric, task.max_epochs, controls, made_with(task), device_name(device), threads)


def _made_for(study: Study) -> dict[str, str]:
    """What must be as it was for recorded facts to hold; of the code, as far as this machine has it."""
    kinds: tuple[type, type] = (type(study.search_space), study.search_space.Task)
    return {"study": study.digest, "code": code_of(*kinds)}
