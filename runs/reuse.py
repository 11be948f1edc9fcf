"""Reuse: finished trials of other studies that replace equal ones of this, if its file names these studies.

Equal means: the same space, options, constraints, configuration and seed, on the same kind of device with as many
threads, made with the same code, versions and data. What is taken over costs nothing here; what it did cost goes along,
as the cost of the run, and so do the weights.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from naslab.errors import InputError
from naslab.runs.judge import judged_arm
from naslab.runs.ledger import Ledger
from naslab.runs.spend import device_kind
from naslab.runs.study import Study
from naslab.runs.trial import Job, Trial, summed
from naslab.runs.worker import WEIGHTS
from naslab.search_spaces.options import RECORDED

Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Circumstances:
    """What all trials of a driver have in common."""

    device: str
    threads: int
    made_with: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A finished trial of another study."""

    study: Study
    trial: Trial
    folder: Path
    """Where its weights are, if it has some."""

    @property
    def origin(self) -> dict[str, Any]:
        """The study and the number of the trial that ran: a trial may have been taken over before."""
        return dict(self.trial.reused or {"study": self.study.name, "trial": self.trial.number})

    def facts(self) -> dict[str, Any]:
        """The outcome to record: nothing was spent, and everything was carried; its rungs came before it began."""
        trial = self.trial
        spent, cores = sum(trial.seconds.values()), sum(trial.core_seconds.values())
        rungs = [
            replace(
                rung,
                device_seconds=rung.device_seconds - spent,
                core_seconds=None if rung.core_seconds is None else rung.core_seconds - cores,
            )
            for rung in trial.rungs
        ]
        return {
            "seconds": {},
            "core_seconds": {},
            "carried_seconds": summed(trial.seconds, trial.carried_seconds),
            "carried_core_seconds": summed(trial.core_seconds, trial.carried_core_seconds),
            "carried_wall_seconds": summed(
                {phase: spent / trial.device_share for phase, spent in trial.seconds.items()},
                trial.carried_wall_seconds or trial.carried_seconds,
            ),
            "threads": trial.threads,
            "device": trial.device,
            "scores": dict(trial.scores),
            "result": {**trial.result, "reused": self.origin},
            "rungs": [asdict(rung) for rung in rungs],
        }

    def copy_weights(self, folder: Path) -> None:
        """Put its weights into `folder`, for export.

        Raises:
            InputError: they cannot be read or written.
        """
        if not (self.folder / WEIGHTS).is_file():
            return
        partial = folder / f"{WEIGHTS}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / WEIGHTS, partial)
            os.replace(partial, folder / WEIGHTS)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be copied: {error.strerror}") from None


class Reusable:
    """What other studies have, by what this one may ask for."""

    def __init__(self, study: Study, sources: Iterable[Source] = ()) -> None:
        self._study = study
        self._found: dict[Key, Source] = {}
        for source in sources:
            for key in _gives(source):
                self._found.setdefault(key, source)

    def find(self, job: Job) -> Source | None:
        """The trial that stands for `job`; None where there is none."""
        return None if judged_arm(self._study, job) else self._found.get(_asks(self._study, job))


def reusable(url: str, study: Study, here: Circumstances) -> tuple[Reusable, list[str]]:
    """What the studies that `study` names have that it may take over; and one line on each of them.

    Args:
        url: of the storage.

    Raises:
        InputError: a study that is not in the storage.
    """
    sources: list[Source] = []
    lines = []
    for name in study.reuse:
        other = Ledger.open(url, name)
        finished = [t for t in other.trials() if t.state == "complete" and t.job.role != "profile"]
        why = _difference(study, other.study)
        reasons = [why or _unlike(here, trial) for trial in finished]
        equal = [t for t, reason in zip(finished, reasons, strict=True) if reason is None]
        sources += [Source(other.study, t, other.files / "trials" / t.job.key) for t in equal]
        reason = next((reason for reason in reasons if reason is not None), None)
        rest = f"; of the others: {reason}" if reason else ""
        lines.append(f"reuse: {len(equal)} of the {len(finished)} finished trials of {name} may be taken over{rest}")
    return Reusable(study, sources), lines


def reused(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """What was taken over, by study: this study's trials, and the seconds that theirs had cost."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.reused is not None:
            found.setdefault(trial.reused["study"], []).append(trial)
    return [
        {
            "study": study,
            "trials": [t.number for t in group],
            "carried_seconds": sum(t.full_seconds for t in group),
        }
        for study, group in sorted(found.items())
    ]


def _difference(study: Study, other: Study) -> str | None:
    """What keeps all trials of another study from being equal; None if nothing does."""
    ours, theirs = _setting(study), _setting(other)
    key = next((key for key in ours if ours[key] != theirs[key]), None)
    return None if key is None else f"another {key}"


def _setting(study: Study) -> dict[str, Any]:
    space = study.search_space
    return {
        "space": study.space.name,
        "options of the space": space.options.model_dump(mode="json"),
        "task": space.Task.Options.model_validate(study.task, context=RECORDED).model_dump(mode="json"),
        "constraints": study.constraints.model_dump(mode="json"),
    }


def _unlike(here: Circumstances, trial: Trial) -> str | None:
    """What keeps a trial of the same setting from being equal; None if nothing does."""
    if device_kind(trial.device) != device_kind(here.device):
        return f"another device: {trial.device}"
    if trial.threads != here.threads:
        return f"another number of threads: {trial.threads}, here {here.threads}"
    there = trial.result.get("made_with")
    if there is None:
        return "an earlier version ran it, and did not record its code"
    key = next((key for key, value in here.made_with.items() if there.get(key) != value), None)
    return None if key is None else f"made with another {key}: {there.get(key)}, here {here.made_with[key]}"


def _asks(study: Study, job: Job) -> Key:
    if job.role in ("reference", "final"):
        return "kept", job.configuration, job.seed
    if job.role == "random":
        return "scored", job.configuration, job.seed
    return _alone(study, job)


def _gives(source: Source) -> list[Key]:
    job = source.trial.job
    if job.role not in ("reference", "final", "random"):
        return [_alone(source.study, job)]
    scored = ("scored", job.configuration, job.seed)
    return [("kept", job.configuration, job.seed), scored] if (source.folder / WEIGHTS).is_file() else [scored]


def _alone(study: Study, job: Job) -> Key:
    """Of a job that only one of the same role stands for."""
    match job.role:
        case "proposal":  # a front has its cost found beside
            return job.role, job.configuration, job.seed, study.objective
        case "search":
            arm = next(arm for arm in study.arms if arm.name == job.arm)
            options = arm.model_dump(mode="json", exclude={"name", "searches"})
            return job.role, json.dumps(options, sort_keys=True), job.seed
    return job.role, job.label, job.seed
