"""What the rules check: a space and its task, small enough to be trained twice in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naslab.efficiency.inputs import Inputs, call_model, tensors_in
from naslab.errors import InputError
from naslab.search_spaces import Chain, Configuration, Float, SearchSpace, Task, find_space, make_task, seed_everything
from naslab.search_spaces.find import space_names
from naslab.search_spaces.parameters import Parameter, Value

BATCH = 4
SEED = 20230125
DRAWS = 20
"""How often a value that differs is looked for."""
NEAR = 0.002
"""Share of a real parameter's range by which its nearest neighbour differs."""


class Broken(AssertionError):
    """A rule of the contract does not hold."""


@dataclass(frozen=True)
class Subject:
    """A space by name, preset and options, and the options of its task.

    `samples` is how many proposed configurations are built.
    """

    name: str
    preset: str | None = None
    options: Mapping[str, Any] | None = None
    task_options: Mapping[str, Any] | None = None
    samples: int = 4

    @cached_property
    def space(self) -> SearchSpace:
        """The space."""
        return find_space(self.name, self.preset, dict(self.options or {}))

    @cached_property
    def task(self) -> Task:
        """Its task on the CPU."""
        return make_task(self.space, dict(self.task_options or {}), torch.device("cpu"))

    @cached_property
    def batch(self) -> Inputs:
        """A small batch as a model's forward sees it."""
        seed_everything(SEED)
        return self.task.example_input(BATCH)

    @cached_property
    def proposed(self) -> tuple[Configuration, ...]:
        """Configurations that an engine may propose."""
        rng = np.random.default_rng(SEED)
        return tuple(_drawn(self.space, rng) for _ in range(self.samples))

    @property
    def published(self) -> Mapping[str, Configuration]:
        """The reference and the further published settings."""
        return {"reference": self.space.reference, **self.space.published}

    def build(self, configuration: Configuration, seed: int = SEED) -> nn.Module:
        """A model on the CPU whose initialisation the seed decides."""
        seed_everything(seed)
        return self.space.build(configuration)

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """What the model returns for the batch, its own draws decided by the seed."""
        seed_everything(SEED)
        return tensors_in(call_model(model, self.batch))

    def raw(self, number: int) -> Iterator[dict[str, Value]]:
        """Values as an engine draws them, before they are canonicalised; those that a constraint refuses left out."""
        rng = np.random.default_rng(SEED + 1)
        for _ in range(number):
            values: dict[str, Value] = {}
            for parameter in self.space.parameters:
                if parameter.when is None or parameter.when.holds(values):
                    values[parameter.name] = parameter.sample(rng)
            if self.allowed(values) is not None:
                yield values

    def neighbours(self, configuration: Configuration) -> Iterator[tuple[str, Configuration]]:
        """Configurations that differ from this one in one parameter, and in what its change switches on or off."""
        rng = np.random.default_rng(SEED + 2)
        for parameter in self.space.parameters:
            if parameter.name in configuration:
                for value in _others(parameter, configuration[parameter.name], rng):
                    found = self.allowed(self._changed(configuration, parameter, value, rng))
                    if found is not None and found != configuration:
                        yield parameter.name, found

    def allowed(self, values: Mapping[str, object]) -> Configuration | None:
        """The configuration, or None where a constraint refuses it."""
        try:
            return self.space.configuration(values)
        except InputError:
            return None

    def _changed(
        self, configuration: Configuration, changed: Parameter, value: Value, rng: np.random.Generator
    ) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for parameter in self.space.parameters:
            if parameter.name == changed.name:
                values[parameter.name] = value
            elif parameter.when is None or parameter.when.holds(values):
                values[parameter.name] = configuration.get(parameter.name, parameter.sample(rng))
        return values


def subject(
    target: str,
    task: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    samples: int = 4,
) -> Subject:
    """The subject of `target`: `NAME[:PRESET]` of a shipped space, or `module.path:Class[:PRESET]`.

    Args:
        task: options of the task, as in a study file: little data and two epochs.
        options: options of the space that differ from the preset's.
    """
    first, _, rest = target.partition(":")
    if first in space_names():
        return Subject(first, rest or None, options, task, samples)
    cls, _, preset = rest.partition(":")
    return Subject(f"{first}:{cls}", preset or None, options, task, samples)


def objective(outputs: list[Tensor]) -> Tensor:
    """A scalar that every real output moves, each element by another weight."""
    real = [t.float().flatten() for t in outputs if t.is_floating_point() and t.requires_grad]
    if not real:
        raise Broken("no output in training mode has a gradient")
    flat = torch.cat(real)
    return (flat * torch.linspace(0.5, 1.5, len(flat))).sum()


def _drawn(space: SearchSpace, rng: np.random.Generator) -> Configuration:
    try:
        return space.random(rng)
    except InputError as error:
        raise Broken(f"the space refuses what it proposes, draw after draw: {error}") from None


def _others(parameter: Parameter, value: Value, rng: np.random.Generator) -> list[Value]:
    """Another value, and for a real number a near one, for a chain one with two layers swapped."""
    drawn = (parameter.sample(rng) for _ in range(DRAWS))
    found = [next((other for other in drawn if other != value), value)]
    if isinstance(parameter, Float):
        near = float(value) + NEAR * (parameter.high - parameter.low)  # type: ignore[arg-type]
        found.append(near if near <= parameter.high else parameter.low)
    if isinstance(parameter, Chain) and isinstance(value, tuple):
        found.append((*value[1:], value[0]))
    return found
