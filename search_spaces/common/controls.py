"""Controls that tasks share: raw samples, an untrained model, and one trained differently."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from torch import Tensor, nn

from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.seeds import seed_everything
from naslab.search_spaces.task import Control, Split, Task

Model = TypeVar("Model")
Features = Callable[[Tensor], Tensor]


def raw_pixels(
    scores: Callable[[Features, Split], dict[str, float]], description: str = "the metric on the pixels themselves"
) -> Control:
    """Samples (B, ...) as their own features (B, F), scored like a model's."""
    return Control("raw_pixels", description, lambda seed, split: scores(_flat, split), seeded=False)


def untrained(task: Task, description: str = "the reference model as initialised") -> Control:
    """What `task` makes of its space's reference before any training."""

    def measure(seed: int, split: Split) -> dict[str, float]:
        seed_everything(seed)
        return task.evaluate(task.space.build(task.space.reference), split, full=split == "test")

    return Control("untrained", description, measure)


def trained(
    name: str, description: str, train: Callable[[int], Model], scores: Callable[[Model, Split], dict[str, float]]
) -> Control:
    """A control that trains a model by a seed, once for both splits: a task makes it once, in its constructor."""
    latest = lru_cache(maxsize=1)(train)
    return Control(name, description, lambda seed, split: scores(latest(seed), split), trained=True)


def trained_as(task: Task, name: str, description: str, configuration: Configuration) -> Control:
    """A configuration as the task trains it, its own search aside; made once, in the task's constructor."""

    def train(seed: int) -> nn.Module:
        seed_everything(seed)
        model = task.space.build(configuration)
        for _ in task.train(model, seed):
            pass
        return model

    return trained(name, description, train, lambda model, split: task.evaluate(model, split))


def _flat(samples: Tensor) -> Tensor:
    return samples.flatten(1)
