"""Memory of a training step: what occupies it at the peak."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from naslab.efficiency.inputs import Inputs, tensors_in, tensors_of
from naslab.efficiency.memory import LiveBytes
from naslab.efficiency.state import preserved
from naslab.efficiency.training_step import MakeOptimiser, NoTrainingStep, in_training, training_loss
from naslab.efficiency.unwrap import eager


@dataclass(frozen=True)
class MemorySplit:
    """Bytes held at the peak of a training step. `parameters` includes buffers; `activations` is all that is none of
    the others: what autograd saved, and intermediates.
    """

    peak: int
    parameters: int
    gradients: int
    optimiser_state: int
    inputs: int

    @property
    def activations(self) -> int:
        """Bytes of activations at the peak."""
        return self.peak - self.parameters - self.gradients - self.optimiser_state - self.inputs


def training_memory(
    model: nn.Module, inputs: Inputs, optimiser: MakeOptimiser = torch.optim.AdamW
) -> MemorySplit | None:
    """The peak of the second training step (the first makes the optimiser's state), by exact accounting of storages.

    Works on meta tensors, too. Everything is afterwards as before. None where no output has a gradient.
    """
    plain = eager(model)
    with preserved(model=plain, inputs=inputs):
        try:
            return training_peak(plain, inputs, optimiser)
        except NoTrainingStep:
            return None


def training_peak(model: nn.Module, inputs: Inputs, optimiser: MakeOptimiser = torch.optim.AdamW) -> MemorySplit:
    """`training_memory` of a model that its caller puts back.

    Raises:
        NoTrainingStep: there is none; the reason is named.
    """
    made = optimiser([p for p in in_training(model).parameters() if p.requires_grad])
    live = _LiveStep(model, made, inputs)
    with torch.compiler.set_stance("force_eager"), torch.enable_grad(), live.watching():
        for _ in range(2):
            training_loss(model, inputs).backward()
            made.step()
            made.zero_grad()
    return live.split


class _LiveStep(LiveBytes):
    """Looks at each new peak how much of it gradients and the optimiser's state hold."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, inputs: Inputs) -> None:
        super().__init__()
        self.split = MemorySplit(0, 0, 0, 0, 0)
        self._parameters = list(model.parameters())
        self._optimiser = optimiser
        self._fixed = LiveBytes(tensors_of(model)).now, LiveBytes(tensors_in(inputs)).now
        for tensor in (*tensors_of(model), *tensors_in(inputs)):
            self._see(tensor)

    def _see(self, tensor: Tensor) -> None:
        before = self.peak
        super()._see(tensor)
        if self.peak > before:
            gradients = _bytes(p.grad for p in self._parameters)
            state = _bytes(tree_leaves(list(self._optimiser.state.values())))
            self.split = MemorySplit(self.peak, self._fixed[0], gradients, state, self._fixed[1])


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.untyped_storage().nbytes() for value in values if isinstance(value, Tensor))
