"""What a worker does with one job: build, train, evaluate or search, every second charged to a phase."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from naslab.efficiency import profile
from naslab.efficiency.device import current, device_name, hand_back, is_lost, resolve_device
from naslab.errors import InputError
from naslab.kernels._compiling import telling
from naslab.nas.arms import Differentiable
from naslab.nas.differentiable import search
from naslab.runs.attempt import check_current
from naslab.runs.constraints import PROFILE_BATCH, Cost, find_costs
from naslab.runs.events import Trail
from naslab.runs.executors import Slot, WorkerDied
from naslab.runs.faults import cannot_write, disk_is_full, in_one_line, place_of
from naslab.runs.judge import judged_arm
from naslab.runs.log import captured
from naslab.runs.made_with import made_with
from naslab.runs.plan import expected_trainings
from naslab.runs.predicted_hours import configuration_hours
from naslab.runs.process_state import put_back
from naslab.runs.scores import read_rung, read_scores, rungs_of
from naslab.runs.study import Study, parse_study
from naslab.runs.threads import usable_cores
from naslab.runs.torchrun import TOGETHER, Request, run_together
from naslab.runs.trial import Cause, Job, Outcome, Phase, RungRecord, summed
from naslab.runs.verdict import asked_to_stop, await_verdict
from naslab.search_spaces import Rung, Split, Task, seed_everything
from naslab.search_spaces.common.training.together import PeerLost, agree, parallel, world
from naslab.whole_file import write_whole

WEIGHTS, CHECKPOINT, COST = "model.safetensors", "checkpoint", "cost.json"

_warm: list[tuple[dict[str, Any], torch.device, Study, Task]] = []
"""The last study document and device, with the study and its task, data in memory: what makes a worker warm."""


def run_job(
    document: dict[str, Any],
    job: Job,
    folder: Path,
    log: Path,
    slot: Slot,
    awaited: int | None = None,
    attempt: str | None = None,
) -> tuple[Outcome, list[RungRecord]]:
    """Do `job` and return what came of it with its rungs.

    Args:
        document: the study as plain values.
        folder: the job's own; an earlier attempt's checkpoint in it is taken up.
        log: takes what the task prints, and the traceback of a failure.
        slot: what it runs on.
        awaited: the epoch that an earlier attempt reported and whose verdict comes before anything is trained.
        attempt: the driver's name for this attempt (attempt.py); None where no other can be.

    Raises:
        InputError: something only the user can mend, such as a full disk; the trial has not failed.
        WorkerDied: the device answers this process with nothing but errors; another process may go on. Or another
            attempt has replaced this one, which then leaves the folder alone.
    """
    check_current(folder, attempt)
    if slot.processes > 1 and job.role in TOGETHER:
        return run_together(Request(document, job, folder, slot, awaited, attempt), log)
    threads = slot.threads or usable_cores()
    torch.set_num_threads(threads)
    place = resolve_device(slot.device)
    try:
        with current(place):
            return _run_job(document, job, folder, captured(log), place, threads, awaited, slot.share, attempt)
    except OSError as problem:  # such as of a file that the task closed under this one's hands
        raise WorkerDied(f"its process is of no more use: {in_one_line(problem)}") from None
    finally:
        hand_back(place)


def _run_job(
    document: dict[str, Any],
    job: Job,
    folder: Path,
    captured: AbstractContextManager[None],
    device: torch.device,
    threads: int,
    awaited: int | None,
    share: float,
    attempt: str | None,
) -> tuple[Outcome, list[RungRecord]]:
    with Trail(folder, share, attempt) as trail, captured, telling(trail.compiled):
        work, stuck = _Work(job, folder, trail, _carried(folder), awaited), list[str]()
        try:
            work.device = device_name(device)
            trail.made_on(work.device, threads)
            study, task = _study_and_task(document, device)
            with put_back(stuck):
                work.run(study, task)
        except (InputError, WorkerDied):
            raise
        except PeerLost as loss:
            raise WorkerDied(str(loss)) from None
        except torch.OutOfMemoryError as problem:
            traceback.print_exc()
            _warm.clear()
            work.state, work.cause = "interrupted", "memory"
            work.note, work.fault = in_one_line(problem), place_of(problem)
        except BaseException as problem:  # noqa: BLE001 - whatever a task raises, SystemExit too, is its trial's failure
            traceback.print_exc()
            if disk_is_full(problem):
                raise InputError(f"{folder}: the disk is full ({in_one_line(problem)}); make room") from None
            if is_lost(device, problem):
                raise WorkerDied(f"the device is lost to its process: {in_one_line(problem)}") from None
            work.state, work.note, work.fault = "failed", in_one_line(problem), place_of(problem)
        trail.settle()
        outcome = work.outcome(threads)
        # Only when the end is on disk may the checkpoint go: whoever dies now has lost nothing.
        trail.end(asdict(outcome))
        if outcome.state in ("complete", "pruned"):
            work.forget_checkpoint()
    if stuck:  # the end that was told stands
        raise WorkerDied(f"its process is of no more use: {'; '.join(stuck)}")
    return outcome, work.rungs


def _study_and_task(document: dict[str, Any], device: torch.device) -> tuple[Study, Task]:
    if not _warm or _warm[0][:2] != (document, device):
        _warm.clear()
        study = parse_study(document, "the study", recorded=True)  # the driver has accepted it
        task = study.make_task(device)
        task.trainings = expected_trainings(study)
        _warm.append((document, device, study, task))
    return _warm[0][2:]


@dataclass(frozen=True)
class _Carried:
    """What earlier attempts spent on a checkpoint: device, core and wall seconds by phase; and the rung they told."""

    seconds: Mapping[Phase, float] = field(default_factory=dict)
    core_seconds: Mapping[Phase, float] = field(default_factory=dict)
    wall_seconds: Mapping[Phase, float] = field(default_factory=dict)
    told: int = 0
    """The last epoch whose scores are on the trail; 0: none."""


class _Work:
    """One job in progress."""

    def __init__(self, job: Job, folder: Path, trail: Trail, carried: _Carried, awaited: int | None) -> None:
        self.job, self.folder, self.trail, self.carried, self.awaited = job, folder, trail, carried, awaited
        self.state: Any = "complete"
        self.scores: dict[str, float] = {}
        self.result: dict[str, Any] = {}
        self.rungs: list[RungRecord] = []
        self.device = ""
        self.note: str | None = None
        """What a reader of the ledger should know: which constraint is broken, or what failed."""
        self.fault: str | None = None
        self.cause: Cause | None = None

    def run(self, study: Study, task: Task) -> None:
        """Dispatch on the job's role."""
        self.result["metric"] = task.metric
        self.result["made_with"] = made_with(task)
        if world() > 1:
            self.result |= {"processes": world(), "parallel": parallel()}
        steps: Mapping[str, Callable[[Study, Task], None]] = {
            "control": self._control,
            "search": self._search,
            "profile": self._profile,
        }
        steps.get(self.job.role, self._train)(study, task)

    def outcome(self, threads: int) -> Outcome:
        """What came of it, all seconds charged."""
        return Outcome(
            state=self.state,
            seconds=self.trail.seconds,
            device=self.device,
            scores=self.scores,
            result=self.result,
            error=self.note,
            fault=self.fault,
            cause=self.cause,
            carried_seconds=self.carried.seconds,
            core_seconds=self.trail.core_seconds,
            carried_core_seconds=self.carried.core_seconds,
            threads=threads,
            device_share=self.trail.share,
            carried_wall_seconds=self.carried.wall_seconds,
        )

    def _control(self, study: Study, task: Task) -> None:
        control = next(c for c in task.controls() if c.name == self.job.label)
        with self.trail.phase("evaluate"):
            given = [control.measure(self.job.seed, split) for split in ("validation", "test")]
        self.result["trained"] = bool(control.trained)
        validation, test = (read_scores(scores, task.metric, f"control {control.name}") for scores in given)
        self.scores = _both(test, validation)

    def _train(self, study: Study, task: Task) -> None:
        if self._breaks_a_constraint(study, task) and self.job.role != "reference":
            self.state = "pruned"
            agree(False)
            return
        if self.awaited is not None and (why := self._why_stop(study, self.awaited)) is not None:
            self._stop(why)
            agree(False)
            return
        agree(True)
        with self.trail.phase("train"):
            model = self._build(study, task)
            for yielded in rungs_of(task.train(model, self.job.seed, self.folder / CHECKPOINT)):
                rung = read_rung(yielded)
                if rung.policy is not None:
                    self.result["policy"] = dict(rung.policy)
                if rung.earlier:
                    self.result["earlier_policies"] = dict(rung.earlier)
                if rung.epoch == self.carried.told:  # the checkpoint's own
                    agree(True)
                    continue
                self._note_cost()
                scores = self._evaluate(task, model, "validation", full=False)
                self._rung(rung.epoch, {**rung.facts, **scores})
                why = self._why_stop(study, rung.epoch) if rung.epoch < task.max_epochs else None
                agree(why is None)
                if why is not None:
                    self._stop(why)
                    if why == "budget":
                        return
                    break
        if not self.rungs:  # a task that trains nothing, or a checkpoint at the end of the training
            self._rung(task.max_epochs, self._evaluate(task, model, "validation", full=False))
        validation = self.rungs[-1].scores
        test = {} if self.job.role == "proposal" else self._evaluate(task, model, "test", full=True)
        self.scores = _both(test, validation)
        if self.job.role in ("reference", "final"):
            save_weights(model, self.folder / WEIGHTS)

    def _why_stop(self, study: Study, epoch: int) -> str | None:
        if judged_arm(study, self.job) is None:
            return asked_to_stop(self.folder)
        with self.trail.phase("other"):
            return await_verdict(self.folder, epoch)

    def _stop(self, why: str) -> None:
        if why == "budget":
            self.state, self.cause, self.note = "interrupted", "budget", "the study's budget is spent"
        else:
            self.state = "pruned"

    def _evaluate(self, task: Task, model: nn.Module, split: Split, full: bool) -> dict[str, float]:
        with self.trail.phase("evaluate"):
            return read_scores(task.evaluate(model, split, full=full), task.metric)

    def _breaks_a_constraint(self, study: Study, task: Task) -> bool:
        """Whether the configuration costs more than the study allows; what was found stands in the result.

        So does what a proposal's score is traded against, where the study looks for a front.
        """
        limits, traded = study.constraints, study.objective.cost
        if traded is not None and self.job.role == "proposal":
            with self.trail.phase("profile"):
                self.result["costs"] = self._costs(study, task, {traded}, PROFILE_BATCH)
        if not limits.limits:
            return False
        with self.trail.phase("profile"):
            costs = self._costs(study, task, set(limits.limits), limits.batch_size)
        checks = limits.judge(costs)
        broken = [check for check in checks if check.broken]
        self.result["constraints"] = [asdict(check) for check in checks]
        self.note = f"breaks {'; '.join(map(str, broken))}" if broken else None
        return bool(broken)

    def _costs(self, study: Study, task: Task, wanted: set[Cost], batch: int) -> dict[Cost, float]:
        assert self.job.configuration is not None
        return find_costs(wanted, study.search_space, self.job.configuration, task, batch)

    def _build(self, study: Study, task: Task) -> nn.Module:
        assert self.job.configuration is not None
        seed_everything(self.job.seed)
        return study.search_space.build(self.job.configuration).to(task.device)

    def _search(self, study: Study, task: Task) -> None:
        arm = next(arm for arm in study.arms if arm.name == self.job.arm)
        assert isinstance(arm, Differentiable)
        with self.trail.phase("search"):
            epochs = search(study.search_space, task, arm, self.job.seed, self.folder / CHECKPOINT)
            while True:
                try:
                    epoch = next(epochs)
                except StopIteration as stop:
                    self.result.update(stop.value.to_dict())
                    break
                rung = read_rung(Rung(epoch.epoch, {"loss": epoch.train_loss, **epoch.scores}))
                self._rung(rung.epoch, read_scores(rung.facts, task.metric))
                if epoch.epoch < arm.epochs and asked_to_stop(self.folder) == "budget":
                    self._stop("budget")
                    return
        self.result["supernet_scores"] = read_scores(self.result["supernet_scores"], task.metric)

    def _profile(self, study: Study, task: Task) -> None:
        with self.trail.phase("profile"):
            model = self._build(study, task)
            batch = task.example_input(PROFILE_BATCH)
            assert self.job.configuration is not None
            formula = study.search_space.forward_flops(self.job.configuration, PROFILE_BATCH)
            target = f"{study.name} {self.job.key}"
            self.result["profile"] = profile(model, batch, target=target, formula_flops=formula).to_dict()
            hours = configuration_hours(study, task, self.job.configuration)
            self.result["predicted_hours"] = {name: found.to_dict() for name, found in hours.items()}

    def _rung(self, epoch: int, scores: dict[str, float]) -> None:
        self.rungs.append(self.trail.rung(epoch, scores))
        self._note_cost()

    def _note_cost(self) -> None:
        """What the checkpoint just saved has cost, for the attempt that may go on from it."""
        seconds, cores = self.trail.so_far()
        walls = {phase: spent / self.trail.share for phase, spent in seconds.items()}
        so_far = _Carried(
            summed(self.carried.seconds, seconds),
            summed(self.carried.core_seconds, cores),
            summed(self.carried.wall_seconds or self.carried.seconds, walls),
            max((rung.epoch for rung in self.rungs), default=self.carried.told),
        )
        _write(self.folder / COST, json.dumps(asdict(so_far)))

    def forget_checkpoint(self) -> None:
        """Nothing will go on from it."""
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
        (self.folder / COST).unlink(missing_ok=True)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a state as safetensors, atomically.

    Raises:
        InputError: the file cannot be written.
        WorkerDied: its folder is gone.
    """
    # Tied weights share memory, which safetensors refuses to write; each name gets its own copy.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(safetensors.torch.save(state))
        os.replace(partial, path)
    except OSError as error:
        raise cannot_write(path, error) from None


def _both(test: Mapping[str, float], validation: Mapping[str, float]) -> dict[str, float]:
    return {**test, **{f"validation_{name}": score for name, score in validation.items()}}


def _carried(folder: Path) -> _Carried:
    """What earlier attempts spent on the checkpoint that this one goes on from."""
    if not (folder / CHECKPOINT).exists():
        return _Carried()
    try:
        return _Carried(**json.loads((folder / COST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _Carried()


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise cannot_write(path, error) from None
