"""One optimiser step under a policy: the one place where it is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.training.policy import Loss, Policy
from naslab.search_spaces.common.training.recording import Recorded, state_of
from naslab.search_spaces.common.training.together import (
    LossModule,
    backward,
    held_back,
    joined,
    own_model,
    own_part,
    world,
)
from naslab.search_spaces.task import TrainingDiverged

LEAST_SCALE = 2.0**-14
"""Of float16's loss: no gradient of use is too large for less. It begins with 2^16 and is halved with each left out."""


def accumulate(totals: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Add each value to the total of its name, on the device."""
    for name, value in values.items():
        totals[name] = totals[name] + value if name in totals else value


class Gradients(NamedTuple):
    """What comes of a batch before the optimiser's step: the means of its parts, and a gradient of each parameter."""

    means: dict[str, Tensor]
    of_parameters: list[Tensor | None]


class _Passes:
    """Forward and backward of a batch, part by part."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        loss: nn.Module,
        policy: Policy,
        scaler: torch.amp.GradScaler,
        device: torch.device,
    ) -> None:
        self.parameters = parameters
        self.loss, self.policy, self.scaler, self.device = loss, policy, scaler, device

    def __call__(self, batch: Any) -> Gradients:
        for parameter in self.parameters:
            parameter.grad = None
        means: dict[str, Tensor] = {}
        own, own_share = own_part(batch)
        parts = list(self.policy.parts(own))
        for number, (part, share) in enumerate(parts, start=1):
            with held_back(self.loss, until_last=number == len(parts)):
                accumulate(means, self._of_part(part, share * own_share))
        return Gradients(means, [parameter.grad for parameter in self.parameters])

    def _of_part(self, part: Any, share: float) -> dict[str, Tensor]:
        with self.policy.forward(self.device):
            values = self.loss(part)
        if share != 1:
            values = {name: value * share for name, value in values.items()}
        backward(self.scaler.scale(values["loss"]))
        return {name: value.detach() for name, value in values.items()}


class Stepper:
    """Takes optimiser steps; nothing in one waits for the device."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        loss: Loss,
        policy: Policy,
        clip_norm: float | None = None,
    ) -> None:
        policy.place(model, optimiser)
        self.model, self.optimiser = own_model(model, optimiser)
        self.policy, self.clip_norm = policy, clip_norm
        self.loss = joined(LossModule(self.model, policy.compiled(loss)), self.optimiser)
        self.device = next(model.parameters()).device
        self.scaler = policy.scaler(self.device)
        self._passes = _Passes(self._parameters(), self.loss, policy, self.scaler, self.device)
        self._gradients: Callable[[Any], Gradients] = self._passes
        self._records = policy.records and world() == 1
        if self._records:
            self._gradients = Recorded(self._passes, "a training step", state_of(self.model), shared=True)

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Descend the loss of `batch`; the means of its parts, detached, `loss` among them.

        Of several processes each returns those of its own part of the batch, weighted by its size.
        """
        means, gradients = self._gradients(batch)
        if self._records:  # a replay fills those of its recording
            means = {name: value.clone() for name, value in means.items()}
            for parameter, gradient in zip(self._passes.parameters, gradients, strict=True):
                parameter.grad = gradient
        self._step()
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the policy and float16's scale."""
        return {"policy": self.policy.to_dict(), "scaler": self.scaler.state_dict()}

    def check_scale(self) -> None:
        """Refuse to go on where float16's scale has fallen without end, as every step is left out then.

        Raises:
            TrainingDiverged: no gradient is finite at any scale.
        """
        if self.scaler.get_scale() < LEAST_SCALE:
            raise TrainingDiverged("no step has a finite gradient in float16; use bfloat16 or float32")

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on with the scale of `state`."""
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

    def _parameters(self) -> list[nn.Parameter]:
        """The model's, and what the optimiser trains beside them."""
        trained = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        return list(dict.fromkeys([*self.model.parameters(), *trained]))

    def _step(self) -> None:
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
