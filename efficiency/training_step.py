"""The time of a training step, whole and split into forward, backward and optimiser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter, perf_counter_ns
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from naslab.efficiency.device import synchronise
from naslab.efficiency.inputs import Inputs, call_model, device_of
from naslab.efficiency.latency import MIN_SAMPLES, WARM_UP_CALLS, Latency, summarise

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

    A deep copy is trained, so the model, its gradients and buffers stay as they are, and torch's random state is put
    back. Every part is sampled at least 10 times, however short `max_seconds`.

    Returns:
        None where no output has a gradient, or batch normalisation refuses a batch with one value per channel.
    """
    if not any(p.requires_grad for p in model.parameters()):
        return None
    device = device_of(model, inputs)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        trained = _Trained(copy.deepcopy(model).train(), inputs, optimiser)
        try:
            if trained.loss() is None:
                return None
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                return None
            raise
        return _measure(trained, device, max_seconds)


def training_step_function(
    model: nn.Module,
    inputs: Inputs,
    *,
    optimiser: MakeOptimiser = torch.optim.AdamW,
    copied: bool = True,
) -> Callable[[], None] | None:
    """One whole step as a function to be timed or measured otherwise; None where `measure_training_step` is None.

    Args:
        copied: train a deep copy, so that the model stays as it is.
    """
    if not any(p.requires_grad for p in model.parameters()):
        return None
    trained = _Trained((copy.deepcopy(model) if copied else model).train(), inputs, optimiser)

    def step() -> None:
        with torch.enable_grad():
            loss = trained.loss()
            assert loss is not None
            loss.backward()
            trained.update()

    try:
        with torch.enable_grad():
            trains = trained.loss() is not None
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return None
        raise
    return step if trains else None


class _Trained:
    """A model under training on one batch, step by step."""

    def __init__(self, model: nn.Module, inputs: Inputs, make: MakeOptimiser) -> None:
        self.model, self.inputs = model, inputs
        self.optimiser = make(p for p in model.parameters() if p.requires_grad)

    def loss(self) -> Tensor | None:
        outputs: Any = call_model(self.model, self.inputs)
        means = [t.mean() for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.requires_grad]
        return torch.stack(means).sum() if means else None

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
    assert loss is not None
    loss.backward()
    marks.append(_idle(device))
    trained.update()
    return [*marks, _idle(device)]


def _whole(trained: _Trained, device: torch.device) -> int:
    began = _idle(device)
    loss = trained.loss()
    assert loss is not None
    loss.backward()
    trained.update()
    return _idle(device) - began


def _idle(device: torch.device) -> int:
    synchronise(device)
    return perf_counter_ns()
