"""What `auto` means: a policy chosen by a short measurement of real steps, once for a study's space on a device.

The choice is kept (choice_store.py), and every later training of the same subject takes it from there, so that the
rows of a study are trained alike. Where it cannot be kept, or where the trainings of a study are too short, all
together, to pay for a measurement, `auto` is plain PyTorch.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import nn

from naslab.efficiency import collect_provenance
from naslab.efficiency.device import synchronise
from naslab.efficiency.latency import ratio_interval
from naslab.kernels._compiling import compiling
from naslab.search_spaces.common.training.checkpoint import restore_rng, rng_state
from naslab.search_spaces.common.training.choice_store import SCHEMA, alone, can_keep, keep, kept, path_of
from naslab.search_spaces.common.training.policy import Batches, Loss, Policy, PolicyOptions
from naslab.search_spaces.common.training.step import Stepper
from naslab.search_spaces.common.training.together import check_alone, world
from naslab.search_spaces.task import Task

LEAST_STEPS = 200
"""A study whose trainings have fewer steps in all is not measured: what it does depends on no clock."""
LEAST_SECONDS = 120.0
"""Nor is one whose trainings are expected to take less than this in all, in plain PyTorch."""
SHARE = 0.02
"""Of all the expected training, for the measurement."""
MOST_SECONDS = 20.0
LEAST_ROUNDS = 5
WARM_UP_STEPS = 2
HOPELESS = 4.0
"""A policy whose second step takes more than so many times the first policy's is not timed further: bfloat16 on a CPU
without units for it takes 20 times as long."""
SECONDS_TO_COMPILE = 1800.0
"""From one expected training of so long on, compiling is tried: each takes a minute or more for it."""


@dataclass(frozen=True)
class Training:
    """What is to be trained: a model, its optimiser, and functions of both that hold neither."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    batches: Batches
    loss: Loss
    clip_norm: float | None = None

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.model.parameters()).device

    def copied(self) -> Training:
        """The same with a model and an optimiser of its own."""
        model, optimiser = copy.deepcopy((self.model, self.optimiser))
        return replace(self, model=model, optimiser=optimiser)


@dataclass(frozen=True)
class Sampled:
    """Seconds of single steps of a policy, and of its first one, which compiles."""

    policy: Policy
    seconds: tuple[float, ...]
    first_seconds: float = 0.0

    @property
    def step_seconds(self) -> float:
        """Median."""
        return statistics.median(self.seconds)

    def expected(self, steps: int) -> float:
        """Seconds of a training of `steps` steps, compilation included."""
        return steps * self.step_seconds + (self.first_seconds if self.policy.compile else 0.0)


@dataclass(frozen=True)
class Wanted:
    """What a study asks for, how many steps its trainings have, and what is trained: equal for all its trials."""

    asked: PolicyOptions
    steps: int
    subject: Mapping[str, Any]
    trainings: int = 1
    """How many of so many steps will be run: a measurement is weighed against all of them."""

    @classmethod
    def by(cls, task: Task) -> Wanted:
        """Of a task whose options have a `policy`."""
        space, options, plan = task.space, task.options, task.training_plan
        subject = {
            "space": space.name,
            "space_options": space.options.model_dump(mode="json"),
            "task": type(task).__qualname__,
            "task_options": options.model_dump(mode="json"),
        }
        return cls(options.policy, plan.steps if plan else 0, subject, task.trainings)

    def of(self, steps: int, **more: Any) -> Wanted:
        """The same for another number of steps, and with more to say of the subject."""
        return replace(self, steps=steps, subject={**self.subject, **more})

    def without(self, *tried: Literal["compile", "cuda_graphs"]) -> Wanted:
        """The same, but that these are used only where they are asked for, and not tried."""
        off: dict[str, str] = {name: "off" for name in tried if getattr(self.asked, name) == "auto"}
        return replace(self, asked=self.asked.model_copy(update=off))


def decide(wanted: Wanted, training: Training) -> Policy:
    """The policy of a training that begins; nothing that it will do is changed by the measurement."""
    asked, steps = wanted.asked, wanted.steps
    plain = asked.plain
    is_open = asked.compile == "auto" or records(asked, training.device)
    if wanted.trainings * steps < LEAST_STEPS or (len(candidates(asked, training.model)) == 1 and not is_open):
        return plain
    path = path_of(wanted.subject, steps, training.device)
    known = kept(path)
    if known is not None or not can_keep(path):
        return known or plain
    with alone(path):
        return kept(path) or keep(path, _measured(wanted, training)) or plain


def policy_for(wanted: Wanted | None, training: Training) -> Policy:
    """That of a training that begins; None: plain PyTorch.

    Several processes measure nothing, as they would have to choose alike.
    """
    if wanted is None:
        return Policy()
    if wanted.asked.cuda_graphs == "on":
        check_alone("a CUDA graph is one process's")
    return decide(wanted, training) if world() == 1 else wanted.asked.plain


def _measured(wanted: Wanted, training: Training) -> dict[str, Any]:
    """The document of a measurement, after which random numbers are those that would have come without it."""
    before = rng_state(training.device)
    try:
        with compiling(torch.get_num_threads()):
            samples = measure(wanted, training.copied())
    finally:
        restore_rng(before, training.device)
    return {
        "schema": SCHEMA,
        "subject": dict(wanted.subject),
        "steps": wanted.steps,
        "trainings": wanted.trainings,
        "policy": best(samples, wanted.steps).to_dict(),
        "samples": [{**vars(s), "policy": s.policy.to_dict()} for s in samples],
        "provenance": collect_provenance(training.device, samples="samples of this document").to_dict(),
    }


def candidates(asked: PolicyOptions, model: nn.Module) -> list[Policy]:
    """The policies without compilation that `asked` leaves open, plain first; float16 is never chosen by itself."""
    reduced = asked.precision == "auto"
    convolves = any(isinstance(m, nn.Conv2d) and m.kernel_size != m.stride for m in model.modules())
    laid_out = asked.memory_format == "auto" and convolves
    plain = asked.plain
    precisions = (plain.precision, "bfloat16") if reduced else (plain.precision,)
    formats = (plain.memory_format, "channels_last") if laid_out else (plain.memory_format,)
    return [replace(plain, precision=p, memory_format=f) for p, f in product(precisions, formats)]  # type: ignore[arg-type]


def records(asked: PolicyOptions, device: torch.device) -> bool:
    """Whether recording is to be tried."""
    return asked.cuda_graphs == "auto" and not asked.recompute and device.type == "cuda"


def _compared(asked: PolicyOptions, training: Training) -> list[list[Policy]]:
    """The candidates, group after group. One that records is alone: it holds where weights lie, others move them."""
    eager = candidates(asked, training.model)
    recorded = [[replace(policy, cuda_graphs=True)] for policy in eager]
    if asked.cuda_graphs == "on":
        return recorded
    return [eager, *recorded] if records(asked, training.device) else [eager]


def measure(wanted: Wanted, training: Training) -> list[Sampled]:
    """Samples of the plain policy and, where the trainings are long enough for it, of the others, all in turn.

    Args:
        training: trained by this; a copy.
    """
    asked = wanted.asked
    (plain,) = _sampled(training, [asked.plain], 0.0)
    one = plain.expected(wanted.steps)
    total = wanted.trainings * one
    if total < LEAST_SECONDS:
        return [plain]
    groups = _compared(asked, training)
    seconds = min(SHARE * total, MOST_SECONDS) / len(groups)
    samples: list[Sampled] = []
    for group in groups:
        try:
            samples += _sampled(training, group, seconds)
        except Exception:  # noqa: BLE001 - what cannot run, as an operation without bfloat16, is no choice
            if not samples:
                return [plain]
    if asked.compile != "auto" or one < SECONDS_TO_COMPILE:
        return samples
    compiled = replace(best(samples, wanted.steps), compile=True)
    try:
        return [*samples, *_sampled(training, [compiled], 0.0)]
    except Exception:  # noqa: BLE001 - whatever a compiler raises, the training goes without it
        return samples
    finally:
        torch.compiler.reset()


def best(samples: Sequence[Sampled], steps: int) -> Policy:
    """The policy of the shortest training; another than the first only where its steps are surely shorter."""
    plain, *others = samples
    sure = [s for s in others if ratio_interval(plain.seconds, s.seconds)[0] > 1]
    return min((plain, *sure), key=lambda s: s.expected(steps)).policy


def _sampled(training: Training, policies: Sequence[Policy], seconds: float) -> list[Sampled]:
    """Single steps of all policies in turn, on one model, for so many seconds and five rounds at least.

    Of a hopeless one, its second step alone.
    """
    endless = _endless(training)
    steppers = [Stepper(training.model, training.optimiser, training.loss, p, training.clip_norm) for p in policies]
    first = [_time(stepper, next(endless)) for stepper in steppers]
    second = [_time(stepper, next(endless)) for stepper in steppers]
    hopeful = [i for i, taken in enumerate(second) if taken <= HOPELESS * second[0]]
    for i in hopeful:
        for _ in range(WARM_UP_STEPS - 1):
            _time(steppers[i], next(endless))
    found: dict[int, list[float]] = {i: [] for i in hopeful}
    start = time.perf_counter()
    while len(found[0]) < LEAST_ROUNDS or time.perf_counter() - start < seconds:
        for i in hopeful:
            found[i].append(_time(steppers[i], next(endless)))
    return [Sampled(p, tuple(found.get(i, second[i : i + 1])), first[i]) for i, p in enumerate(policies)]


def _time(stepper: Stepper, batch: Any) -> float:
    stepper.policy.place(stepper.model, stepper.optimiser)
    synchronise(stepper.device)
    start = time.perf_counter()
    with stepper.policy.blocks(stepper.model):
        stepper(batch)
    synchronise(stepper.device)
    return time.perf_counter() - start


def _endless(training: Training) -> Iterator[Any]:
    training.model.train()
    while True:
        yield from training.batches(training.model, training.optimiser, 0)
