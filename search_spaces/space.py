"""SearchSpace: the contract of every space, searched by either engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Parameter, Value

DRAWS = 1000
"""How often a random configuration that the space refuses is drawn anew."""


class SearchSpace(ABC):
    """Typed parameters, the published setting as `reference`, `build`, and the task that trains what is built.

    A subclass names its options (sizes, framework, ...: what a study fixes) and its parameters (what a study
    varies). `presets` are named option sets: `tiny` (two cores, minutes), `small` (one GPU), `paper`.

    `Task` is the `naslab.search_spaces.Task` class that `find.make_task` makes. A task knows its space, not the other
    way round: a system's package, which knows both, names it (see docs/add-a-space.md).
    """

    name: ClassVar[str]
    Options: ClassVar[type[Options]]
    Task: type[Any]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    builds_models: ClassVar[bool] = True
    """Whether `build` gives networks that can be profiled and exported."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """What varies, in the order in which configurations print. A `when` refers to an earlier parameter."""

    @property
    @abstractmethod
    def reference(self) -> Configuration:
        """The published system's own setting, the one to beat."""

    @property
    def published(self) -> Mapping[str, Configuration]:
        """Further published settings by name."""
        return {}

    @abstractmethod
    def build(self, configuration: Configuration) -> nn.Module:
        """A freshly initialised model; initialisation draws from torch's global generator."""

    def example_input(self, batch_size: int) -> Inputs | None:
        """Random inputs of a built model's forward, made without data, on torch's default device (meta too).

        None where the space cannot tell; a profile of it then needs the shape from the user.
        """
        return None

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int | None:
        """The closed formula for the contraction FLOPs (a multiply-add is 2) of one forward in evaluation mode.

        It stands beside the counter's figure in every profile; None where there is no closed form.
        """
        return None

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """Map settings that build the same function onto one of them; refuse what breaks a constraint.

        Raises:
            InputError: the values, each allowed by itself, do not go together.
        """
        return values

    def validated(self, values: Mapping[str, object]) -> dict[str, Value]:
        """`values` in their canonical types and the space's order, before `canonicalise` maps equal functions.

        Raises:
            InputError: unknown, missing, inactive or impossible value, with the place and what is allowed.
        """
        given = {key: value for key, value in values.items() if key != "space"}
        if values.get("space", self.name) != self.name:
            raise InputError(f"space: {values['space']!r} is not {self.name!r}")
        known = {parameter.name for parameter in self.parameters}
        for key in given:
            if key not in known:
                raise InputError(f"{key}: unknown parameter of space {self.name}; it has {', '.join(sorted(known))}")
        chosen: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.when is not None and not parameter.when.holds(chosen):
                if parameter.name in given:
                    raise InputError(f"{parameter.name}: applies only with {parameter.when}")
                continue
            if parameter.name not in given:
                raise InputError(f"{parameter.name}: missing; use {parameter.allowed}")
            chosen[parameter.name] = parameter.check(given[parameter.name])
        return chosen

    def configuration(self, values: Mapping[str, object]) -> Configuration:
        """Validate and canonicalise `values` into a Configuration.

        Raises:
            InputError: see `validated` and `canonicalise`.
        """
        return Configuration(self.name, tuple(self.canonicalise(self.validated(values)).items()))

    def random(self, rng: np.random.Generator) -> Configuration:
        """A configuration drawn uniformly from what an engine may propose, drawn anew where the space refuses it.

        Raises:
            InputError: the space refused every one of DRAWS draws.
        """
        for _ in range(DRAWS - 1):
            try:
                return self._drawn(rng)
            except InputError:  # values that do not go together
                continue
        return self._drawn(rng)

    def _drawn(self, rng: np.random.Generator) -> Configuration:
        chosen: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.when is None or parameter.when.holds(chosen):
                chosen[parameter.name] = parameter.sample(rng)
        return self.configuration(chosen)

    def draw(self, configuration: Configuration) -> str:
        """The configuration as an SVG drawing, or an empty string where a drawing says nothing."""
        return ""
