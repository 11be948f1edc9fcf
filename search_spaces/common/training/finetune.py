"""Supervised training of a classifier for a number of steps: fine-tuning, and training from scratch.

The published recipe without what it needs on ImageNet alone: no RandAugment, mixup, cutmix or drop path, but crops and
flips.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.search_spaces.common.training.schedule import set_learning_rate
from naslab.search_spaces.data import Augmentation, ImageSet
from naslab.search_spaces.data.images import WholeImages
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
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "fine-tune"))
    for step, (indices, samples) in enumerate(itertools.islice(_batches(images, options, generator), steps)):
        set_learning_rate(optimiser, step / steps, options.warmup)
        views = augmentation(samples.to(device), generator)
        loss = F.cross_entropy(classifier(views), labels_N[indices], label_smoothing=options.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return classifier.eval()


def _batches(
    images: ImageSet, options: FinetuneOptions, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor | WholeImages]]:
    """Indices and images, epoch by epoch in a new order; batches are whole where there are as many images."""
    size = min(options.batch_size, len(images))
    while True:
        order = torch.randperm(len(images), generator=generator, device=generator.device)
        last_first = order[: len(images) // size * size].view(-1, size).flip(0).flatten()
        yield from images.batches(last_first, size, generator.device)
