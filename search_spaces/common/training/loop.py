"""The loop that the tasks share: epochs of optimiser steps, from a checkpoint on, told rung by rung."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.training.checkpoint import resume_training, save_training
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
    losses: Callable[[int], Iterator[Tensor]],
    budget: Budget,
    seed: int,
    checkpoint: Path | None,
    clip_norm: float | None = None,
) -> Iterator[Rung]:
    """Train `model` on its device; see Task.train. Fact of a rung: `loss`, the mean over its last epoch.

    Args:
        losses: the scalar losses of an epoch (from 0), one a step. What it does before a `yield`, such as setting the
            learning rate, comes before the optimiser's step; what it does after the `yield` comes after the step.
        clip_norm: largest norm of the gradient.

    Raises:
        TrainingDiverged: the mean loss of an epoch is not finite.
    """
    device = next(model.parameters()).device
    start = resume_training(checkpoint, model, optimiser, device)
    if start == 0:
        seed_everything(derive_seed(seed, "train"))
    for epoch in range(start, budget.epochs):
        model.train()
        total, steps = torch.zeros((), device=device), 0
        for loss in losses(epoch):
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimiser.step()
            total += loss.detach()
            steps += 1
        mean = total.item() / steps
        if not math.isfinite(mean):
            raise TrainingDiverged(f"the training loss is {mean} in epoch {epoch + 1}")
        if (epoch + 1) % budget.rung_epochs and epoch + 1 < budget.epochs:
            continue
        if checkpoint is not None:
            save_training(checkpoint, epoch + 1, model, optimiser)
        yield Rung(epoch + 1, {"loss": mean})
