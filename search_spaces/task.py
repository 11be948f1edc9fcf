"""Task: trains a built model rung by rung, evaluates it, and names its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import NaslabError
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.options import Options
from naslab.search_spaces.space import SearchSpace
from naslab.search_spaces.splits import Split as Split


class TrainingDiverged(NaslabError):
    """The training loss is not finite; the trial fails, the study goes on."""


@dataclass(frozen=True)
class Rung:
    """What training reports after each unit of fidelity: `epoch` counts from 1, `facts` are named numbers.

    `policy` is how the steps ran (precision, memory format, ...), where the task's training has one; `earlier` the same
    of what came before them, by name, such as an adaptation.
    """

    epoch: int
    facts: Mapping[str, float] = field(default_factory=dict)
    policy: Mapping[str, Any] | None = None
    earlier: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Control:
    """A score that needs no search: what the metric says without the thing under study.

    `measure(seed, split)` returns the same named scores as `Task.evaluate`. An unseeded control gives the same
    score for every seed and is measured once. `trained`: measuring it trains a model, with or without labels.
    """

    name: str
    description: str
    measure: Callable[[int, Split], dict[str, float]]
    seeded: bool = True
    trained: bool = False


class TrainingPlan(NamedTuple):
    """A full training, known before it runs: its optimiser steps, the samples of each, and how often each sample goes
    through the model in a step, such as once for each view.
    """

    steps: int
    batch_size: int
    passes: int = 1


class Task(ABC):
    """Trains and scores the models of `space` on one data set. Stateless between calls: state is in the model.

    `metric` is the name, among the scores that `evaluate` returns, of the one that ranks; larger is better.

    Raises (constructor):
        InputError: the data is missing, broken, or does not fit the space.
    """

    Options: ClassVar[type[Options]]
    metric: str
    percentages: ClassVar[frozenset[str]] = frozenset()
    """Which scores are percentages, where a margin of 1 means a point."""
    trainings: int = 1
    """How many trainings of this length the study is expected to have: what is measured once serves them all."""

    def __init__(self, space: SearchSpace, options: Any, device: torch.device) -> None:
        self.space = space
        self.options = options
        self.device = device

    @property
    @abstractmethod
    def max_epochs(self) -> int:
        """The full budget in epochs: the epoch of the last rung; 0 where nothing is trained epoch by epoch."""

    @property
    def training_plan(self) -> TrainingPlan | None:
        """What hours are predicted from before a run; None where a task does not say."""
        return None

    def check(self, configuration: Configuration) -> None:  # noqa: B027 - most data bears every configuration
        """Refuse a configuration that the data does not bear; asked of points that a study names, before it runs.

        Raises:
            InputError: why.
        """

    @abstractmethod
    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Train `model` in place for the budget in the options, yielding after each rung.

        A task without epochs yields nothing: its model is scored as it stands when `train` returns, so that an index,
        say, is built here and charged as training.

        Args:
            model: as built by the space, on any device; moved to the task's.
            seed: decides data order and augmentation.
            checkpoint: folder to save the state in after each rung; when it holds one, training goes on from
                there and ends with the same weights as an unbroken run (on a GPU up to the order of its sums). It then
                yields the rung of the checkpoint first, if it can: an attempt killed while that was scored did not
                tell it.

        Raises:
            TrainingDiverged: the loss is not finite.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Named scores of a model, the metric among them.

        A search looks at "validation" only; "test" is for the final figures. `full=False` leaves out what the
        metric does not need, for rungs.
        """

    @abstractmethod
    def controls(self) -> tuple[Control, ...]:
        """The scores that every report of this task shows beside the results."""

    @abstractmethod
    def example_input(self, batch_size: int) -> Inputs:
        """A batch as the model's forward sees it, for the profiler, on the task's device.

        In evaluation mode the forward's outputs depend on nothing else, so that an export can be proved bit for bit.
        """

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """What must be equal for the metric of two studies to be comparable: the data and how it is scored.

        The recipe (epochs, batch size, learning rate) is no part of it. The default compares every option.
        """
        return {"metric": self.metric, **self.options.model_dump(mode="json")}


class GradientTask(Task):
    """A task that the differentiable engine can take apart into batches, optimiser and learning rate."""

    @abstractmethod
    def batches(self, seed: int, epoch: int, share: tuple[float, float] = (0.0, 1.0)) -> Iterator[Any]:
        """Augmented training batches of one epoch, on the device, from a fixed share of the training set.

        Args:
            seed: with `epoch`, decides order and augmentation; the same pair gives the same batches.
            epoch: from 0.
            share: the part of the (once, by the data set's own seed shuffled) training images to draw from;
                (0, .5) and (.5, 1) are disjoint halves.
        """

    @abstractmethod
    def num_batches(self, share: tuple[float, float] = (0.0, 1.0)) -> int:
        """Batches in one epoch of `share`."""

    @abstractmethod
    def optimiser(self, model: nn.Module, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The recipe's optimiser over `parameters` of `model`."""

    @abstractmethod
    def set_learning_rate(self, optimiser: torch.optim.Optimizer, progress: float) -> None:
        """Set the scheduled learning rate; `progress` goes from 0 (first step) to 1 (after the last)."""
