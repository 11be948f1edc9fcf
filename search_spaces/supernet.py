"""What a space offers to be searched by gradient: all its candidates at once, mixed by relaxed decisions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.parameters import Chain
from naslab.search_spaces.space import SearchSpace

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

    def before_step(self) -> None:
        """What precedes the loss of a weight step; losses of alphas have come before it."""

    @abstractmethod
    def after_step(self, progress: float) -> None:
        """What follows an optimiser step (momentum encoders, queues); `progress` goes from 0 to 1."""

    @abstractmethod
    def skipping(self, name: str) -> Tensor:
        """Boolean mask (layers, candidates) of the candidates without parameters: those that skip or only pool."""


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
