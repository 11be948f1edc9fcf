"""SearchSpace: the contract of every space, searched by either engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from naslab.efficiency.errors import InputError
from naslab.efficiency.inputs import Inputs
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Chain, Parameter, Value
from naslab.search_spaces.task import Task


class SearchSpace(ABC):
    """Typed parameters, the published setting as `reference`, `build`, and the task that trains what is built.

    A subclass names its options (sizes, framework, ...: what a study fixes) and its parameters (what a study
    varies). `presets` are named option sets: `tiny` (two cores, minutes), `small` (one GPU), `paper`.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Options]]
    Task: type[Task]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

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

    def configuration(self, values: Mapping[str, object]) -> Configuration:
        """Validate and canonicalise `values` into a Configuration.

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
                    condition = parameter.when
                    allowed = " or ".join(str(v) for v in condition.values)
                    raise InputError(f"{parameter.name}: applies only with {condition.parameter} = {allowed}")
                continue
            if parameter.name not in given:
                raise InputError(f"{parameter.name}: missing; use {parameter.allowed}")
            chosen[parameter.name] = parameter.check(given[parameter.name])
        chosen = self.canonicalise(chosen)
        return Configuration(self.name, tuple(chosen.items()))

    def random(self, rng: np.random.Generator) -> Configuration:
        """A configuration drawn uniformly from what an engine may propose."""
        chosen: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.when is None or parameter.when.holds(chosen):
                chosen[parameter.name] = parameter.sample(rng)
        return self.configuration(chosen)

    def draw(self, configuration: Configuration) -> str:
        """The configuration as an SVG drawing, or an empty string where a drawing says nothing."""
        return ""


Relaxation = Callable[[Tensor], Tensor]
"""Architecture parameters of a cell, (layers, candidates), to mixing weights of the same shape."""


class Supernet(nn.Module, ABC):
    """All candidates of a relaxable space at once, mixed by relaxed architecture parameters.

    `alphas` maps the name of each searched chain to its architecture parameters, shape (layers, candidates),
    columns in the order of the chain's choices. They are parameters of the module, so that state, device and
    distributed wrappers see them; `weights()` are all the others. `relaxation` may be replaced at any time (to
    anneal a temperature, or by one-hot weights to measure the discretisation gap).
    """

    alphas: nn.ParameterDict
    relaxation: Relaxation

    def architecture(self) -> list[nn.Parameter]:
        """The architecture parameters, one per searched chain."""
        return list(self.alphas.values())

    def weights(self) -> list[nn.Parameter]:
        """Every trained parameter that is not an architecture parameter."""
        chosen = {id(alpha) for alpha in self.alphas.values()}
        return [p for p in self.parameters() if id(p) not in chosen and p.requires_grad]

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Training loss of one batch, differentiable in weights and alphas."""

    @abstractmethod
    def architecture_loss(self, batch: Any) -> Tensor:
        """The same loss, differentiable in the alphas and whatever feeds on them alone.

        Parts of the model that come before the searched cells run without recording a gradient, which is what
        makes the alpha step cheap.
        """

    @abstractmethod
    def after_step(self, progress: float) -> None:
        """What follows an optimiser step (momentum encoders, queues); `progress` goes from 0 to 1."""

    @abstractmethod
    def skipping(self, name: str) -> Tensor:
        """Boolean mask (layers, candidates) of the parameter-free candidates: those that skip or only pool."""


class RelaxableSpace(SearchSpace):
    """A space whose searched parameters are chains, so that gradient descent can search it (DARTS)."""

    @abstractmethod
    def supernet(self, relaxation: Relaxation, partial_channels: int = 1) -> Supernet:
        """The supernet with alphas at zero.

        Args:
            relaxation: turns alphas into mixing weights at every forward.
            partial_channels: K of PC-DARTS: 1/K of the channels go through the mixed operation.

        Raises:
            InputError: K does not divide a width of the cells.
        """

    def chains(self) -> tuple[Chain, ...]:
        """The searched cells."""
        return tuple(parameter for parameter in self.parameters if isinstance(parameter, Chain))

    @abstractmethod
    def genotype(self, choices: Mapping[str, tuple[str, ...]]) -> Configuration:
        """The configuration in which each chain has the given operations."""


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed that depends on every part: trial i's from (study seed, arm, i), and so on."""
    import hashlib

    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seed torch (all devices) and numpy's legacy generator, which third-party layers draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
