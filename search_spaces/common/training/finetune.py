"""Supervised training of a classifier for a number of steps: fine-tuning, and training from scratch.

The published recipe without what it needs on ImageNet alone: no RandAugment, mixup, cutmix or drop path, but crops and
flips.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.search_spaces.common.training.schedule import set_learning_rate
from naslab.search_spaces.data import Augmentation, ImageSet
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed

Model = TypeVar("Model", bound=nn.Module)


class Tunable(nn.Module, ABC):
    """A module from samples to logits (B, classes) that says how it is trained."""

    @abstractmethod
    def optimiser(self, options: FinetuneOptions, layer_decay: float) -> torch.optim.Optimizer:
        """Over what is to be trained, rates falling by `layer_decay` from layer to layer."""


class FinetuneOptions(Options):
    """Recipe of a supervised training; the defaults are MAE's but for the few epochs."""

    epochs: int = Field(5, ge=1)
    """Passes over all labelled images; with few labels as many steps are made."""
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    """For a batch of 256; grows linearly with the batch."""
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.75, gt=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""

    def steps(self, labelled: int) -> int:
        """Steps of a training on `labelled` images."""
        return self.epochs * math.ceil(labelled / self.batch_size)


def fine_tune(
    classifier: Model,
    optimiser: torch.optim.Optimizer,
    images: ImageSet,
    augmentation: Augmentation,
    options: FinetuneOptions,
    *,
    steps: int,
    seed: int,
    device: torch.device,
) -> Model:
    """Train `classifier`, samples to logits (B, classes), on labelled images; global generators stay untouched.

    Args:
        optimiser: of `adamw`, over the classifier's parameters.
        steps: optimiser steps; the images are gone through as often as that takes.
    """
    images = images.to(device)
    labels_N = images.labels.to(device)
    classifier.train()
    batches = _Batches(len(images), options.batch_size, seed, device)
    for step in range(steps):
        set_learning_rate(optimiser, step / steps, options.warmup)
        indices = batches.take()
        views = augmentation(images.whole(indices).to(device), batches.generator)
        loss = F.cross_entropy(classifier(views), labels_N[indices], label_smoothing=options.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return classifier.eval()


class _Batches:
    """Indices of one batch after the other, epoch by epoch in a new order; whole batches where there are as many."""

    def __init__(self, number: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.number, self.batch_size, self.device = number, min(batch_size, number), device
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, "fine-tune"))
        self.left: list[Tensor] = []

    def take(self) -> Tensor:
        if not self.left:
            order = torch.randperm(self.number, generator=self.generator, device=self.device)
            whole = self.number // self.batch_size * self.batch_size
            self.left = list(order[:whole].split(self.batch_size))
        return self.left.pop()
