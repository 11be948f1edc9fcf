"""The loop that the tasks share: epochs of optimiser steps, from a checkpoint on, told rung by rung."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.training.checkpoint import resume_training, save_training
from naslab.search_spaces.common.training.choice import Training, Wanted, policy_for
from naslab.search_spaces.common.training.policy import Batches, Loss, Policy
from naslab.search_spaces.common.training.step import Stepper, accumulate
from naslab.search_spaces.common.training.together import check_divisible, gathered, mean_values, rank
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.task import Rung, TrainingDiverged


class Budget(Protocol):
    """What a task's options say of the length of its training."""

    @property
    def epochs(self) -> int:
        """Epochs in all."""

    @property
    def rung_epochs(self) -> int:
        """Epochs between two rungs; the last epoch ends with one in any case."""


def train_in_rungs(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    loss: Loss,
    budget: Budget,
    seed: int,
    checkpoint: Path | None,
    clip_norm: float | None = None,
    wanted: Wanted | None = None,
) -> Iterator[Rung]:
    """Train `model` on its device; see Task.train. Facts of a rung: means over its last epoch of `loss` and its parts.

    From a checkpoint on, the rung at which it was saved comes first, again: whoever died may not have told it.

    Args:
        batches, loss: functions of the model that they are given; neither holds one itself.
        clip_norm: largest norm of the gradient.
        wanted: the policy that is asked for; None: plain PyTorch. A checkpoint's own policy comes before it.

    Raises:
        TrainingDiverged: the mean loss of an epoch is not finite, or no gradient is in float16.
        InputError: several processes train what only one can.
    """
    training = Training(model, optimiser, batches, loss, clip_norm)
    check_divisible(model)
    start, state = resume_training(checkpoint, model, optimiser, next(model.parameters()).device)
    if start == 0:
        seed_everything(derive_seed(seed, "train"))
        policy = policy_for(wanted, training)
    else:
        policy = Policy(**state.get("policy", {}))
    if rank() > 0:  # random numbers of its own; the samples' order is from generators that all have alike
        seed_everything(derive_seed(seed, "train", rank(), start))
    step = Stepper(model, optimiser, loss, policy, clip_norm)
    step.resume(state)
    if "means" in state:
        yield Rung(start, state["means"], step.policy.to_dict())
    for epoch in range(start, budget.epochs):
        means = _means(_epoch(step, batches, epoch))
        if not math.isfinite(means["loss"]):
            raise TrainingDiverged(f"the training loss is {means['loss']} in epoch {epoch + 1}")
        step.check_scale()
        if (epoch + 1) % budget.rung_epochs and epoch + 1 < budget.epochs:
            continue
        if step.model is not model:
            model.load_state_dict(gathered(step.model.state_dict()))
        if checkpoint is not None:
            kept = gathered(step.optimiser.state_dict())
            if rank() == 0:
                save_training(checkpoint, epoch + 1, model, kept, {**step.state(), "means": means})
        yield Rung(epoch + 1, means, step.policy.to_dict())


def _epoch(step: Stepper, batches: Batches, epoch: int) -> Iterator[dict[str, Tensor]]:
    step.model.train()
    with step.policy.blocks(step.model):
        for batch in batches(step.model, step.optimiser, epoch):
            yield step(batch)


def _means(steps: Iterator[dict[str, Tensor]]) -> dict[str, float]:
    """The mean over all steps of each value; the device is waited for at the end alone."""
    totals: dict[str, Tensor] = {}
    number = 0
    for values in steps:
        number += 1
        accumulate(totals, values)
    return {name: total.item() / number for name, total in mean_values(totals).items()}
