"""The time of a training step, whole and split into forward, backward and optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter, perf_counter_ns
from typing import TypeAlias

import torch
from torch import Tensor, nn

from naslab.efficiency.device import synchronise
from naslab.efficiency.inputs import Inputs, call_model, device_of
from naslab.efficiency.latency import MIN_SAMPLES, WARM_UP_CALLS, Latency, summarise
from naslab.efficiency.state import preserved
from naslab.efficiency.tensors import is_sparse, parts_of, tensors_within
from naslab.errors import NaslabError


class NoTrainingStep(NaslabError):
    """A model has no training step with this batch; the message says why."""


def training_loss(model: nn.Module, inputs: Inputs, reduce: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    """One number to take gradients of: the sum over the output's tensors, wherever in it they are, of the mean (or the
    sum) of each. Of a complex one real and imaginary parts count alike.

    Raises:
        NoTrainingStep: no output has a gradient, or batch normalisation refuses the batch.
    """
    try:
        outputs = call_model(model, inputs)
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise NoTrainingStep(f"training mode: {error}") from None
        raise
    parts = [reduce(_real(t)) for t in tensors_within(outputs) if t.requires_grad]
    if not parts:
        raise NoTrainingStep("no output has a gradient")
    return torch.stack(parts).sum()


def _real(tensor: Tensor) -> Tensor:
    if tensor.is_nested:
        tensor = tensor.values()
    elif is_sparse(tensor):
        tensor = parts_of(tensor)[-1]
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


MakeOptimiser: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class TrainingStep:
    """Milliseconds of the parts and of the whole step.

    The parts are timed with the device idle at their borders, the whole without stopping between them, in turn; on a
    GPU the whole may therefore be shorter than the sum.
    """

    forward: Latency
    backward: Latency
    optimiser: Latency
    step: Latency


def measure_training_step(
    model: nn.Module,
    inputs: Inputs,
    *,
    optimiser: MakeOptimiser = torch.optim.AdamW,
    max_seconds: float = 10.0,
) -> TrainingStep | None:
    """Time forward in training mode, backward of the sum of all outputs' means, and the optimiser's step.

    Model, inputs and random states are afterwards as before. Every part is sampled at least 10 times, however short
    `max_seconds`.

    Returns:
        None where no output has a gradient, or batch normalisation refuses a batch with one value per channel.
    """
    with preserved(model=model, inputs=inputs):
        try:
            return training_times(model, inputs, optimiser=optimiser, max_seconds=max_seconds)
        except NoTrainingStep:
            return None


def training_times(
    model: nn.Module, inputs: Inputs, *, optimiser: MakeOptimiser = torch.optim.AdamW, max_seconds: float = 10.0
) -> TrainingStep:
    """`measure_training_step` of a model that its caller puts back.

    Raises:
        NoTrainingStep: there is none; the reason is named.
    """
    with torch.enable_grad():
        trained = _Trained(model, inputs, optimiser)
        return _measure(trained, device_of(model, inputs), max_seconds)


def training_step_function(model: nn.Module, inputs: Inputs) -> Callable[[], None]:
    """One whole step with AdamW, to be timed or measured otherwise. The model trains: its caller puts it back.

    Raises:
        NoTrainingStep: there is none; the reason is named.
    """
    trained = _Trained(model, inputs, torch.optim.AdamW)

    def step() -> None:
        with torch.enable_grad():
            trained.loss().backward()
            trained.update()

    return step


def in_training(model: nn.Module) -> nn.Module:
    """The model in training mode, its gradients forgotten.

    Raises:
        NoTrainingStep: no parameter wants a gradient.
    """
    for parameter in model.parameters():
        parameter.grad = None
    if not any(p.requires_grad for p in model.parameters()):
        raise NoTrainingStep("no parameter wants a gradient")
    return model.train()


class _Trained:
    """A model under training on one batch, step by step."""

    def __init__(self, model: nn.Module, inputs: Inputs, make: MakeOptimiser) -> None:
        self.model, self.inputs = in_training(model), inputs
        self.optimiser = make(p for p in model.parameters() if p.requires_grad)
        with torch.enable_grad():
            self.loss()  # refuse before anything is measured

    def loss(self) -> Tensor:
        return training_loss(self.model, self.inputs)

    def update(self) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad()


def _measure(trained: _Trained, device: torch.device, max_seconds: float) -> TrainingStep:
    names = ("forward", "backward", "optimiser", "step")
    samples: dict[str, list[float]] = {name: [] for name in names}
    rounds, end = 0, perf_counter() + max_seconds
    while rounds < WARM_UP_CALLS + MIN_SAMPLES or perf_counter() < end:
        marks = _split(trained, device)
        whole = _whole(trained, device)
        rounds += 1
        if rounds > WARM_UP_CALLS:
            parts = [after - before for before, after in pairwise(marks)]
            for name, nanoseconds in zip(names, [*parts, whole], strict=True):
                samples[name].append(nanoseconds / 1e6)
    return TrainingStep(*(summarise(samples[name]) for name in names))


def _split(trained: _Trained, device: torch.device) -> list[int]:
    marks = [_idle(device)]
    loss = trained.loss()
    marks.append(_idle(device))
    loss.backward()
    marks.append(_idle(device))
    trained.update()
    return [*marks, _idle(device)]


def _whole(trained: _Trained, device: torch.device) -> int:
    began = _idle(device)
    loss = trained.loss()
    loss.backward()
    trained.update()
    return _idle(device) - began


def _idle(device: torch.device) -> int:
    synchronise(device)
    return perf_counter_ns()
