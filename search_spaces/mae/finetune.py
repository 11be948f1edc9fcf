"""Supervised training of an encoder: fine-tuning with layer decay, and the same from scratch.

MAE's recipe without what it needs on ImageNet alone: no RandAugment, mixup, cutmix or drop path, but crops and flips.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.search_spaces.data import Augmentation, ImageSet
from naslab.search_spaces.mae.model import Autoencoder
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed

Pool: TypeAlias = Literal["class", "mean"]


class FinetuneOptions(Options):
    """Recipe of the supervised training; the defaults are MAE's but for the few epochs."""

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


class Classifier(nn.Module):
    """An encoder and a linear layer on its pooled tokens: images or clips to logits (B, classes)."""

    def __init__(self, model: Autoencoder, pool: Pool, num_classes: int) -> None:
        super().__init__()
        self.model, self.pool = model, pool
        self.head = nn.Linear(model.design.encoder.width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(pooled(self.model, images, self.pool))
        return logits


def pooled(model: Autoencoder, images: Tensor, pool: Pool) -> Tensor:
    """Features (B, D) of whole samples: the class token, or the mean of the patches."""
    tokens, leading = model.features(images), 0 if model.class_token is None else 1
    return tokens[:, 0] if pool == "class" else tokens[:, leading:].mean(1)


def fine_tune(
    model: Autoencoder,
    images: ImageSet,
    num_classes: int,
    augmentation: Augmentation,
    options: FinetuneOptions,
    *,
    pool: Pool,
    steps: int,
    seed: int,
    device: torch.device,
    from_scratch: bool = False,
) -> Classifier:
    """A classifier on a copy of the encoder, trained on the labelled of `images`; global generators stay untouched.

    Args:
        steps: optimiser steps; the images are gone through as often as that takes.
        from_scratch: train `model`'s copy at one learning rate for every layer.
    """
    labelled = images.take((images.labels >= 0).nonzero().flatten()).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier(copy.deepcopy(model), pool, num_classes).to(device).train()
    decay = 1.0 if from_scratch else options.layer_decay
    optimiser = torch.optim.AdamW(_groups(classifier, options, decay), betas=(0.9, 0.999), fused=True)
    batches = _Batches(len(labelled), options.batch_size, seed, device)
    for step in range(steps):
        set_learning_rate(optimiser, step / steps, options.warmup)
        indices = batches.take()
        views = augmentation(labelled.fetch(indices).to(device), batches.generator)
        labels = labelled.labels[indices.cpu()].to(device)
        loss = F.cross_entropy(classifier(views), labels, label_smoothing=options.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return classifier.eval()


def supervised_steps(options: FinetuneOptions, labelled: int) -> int:
    """Steps of a fine-tuning on `labelled` images."""
    return options.epochs * math.ceil(labelled / options.batch_size)


def weight_decayed(name: str, parameter: nn.Parameter) -> bool:
    """MAE decays matrices and tokens, not biases and norms."""
    return parameter.ndim > 1 or name.endswith("_token")


def set_learning_rate(optimiser: torch.optim.Optimizer, progress: float, warmup: float) -> None:
    """Linear warm-up, then half a cosine to 0, of each group's `base_lr`; `progress` goes from 0 to 1."""
    if progress < warmup:
        fraction = progress / warmup
    else:
        fraction = (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * fraction


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


def layered_groups(
    layered: Iterable[tuple[int, bool, nn.Parameter]], last: int, options: FinetuneOptions, layer_decay: float
) -> list[dict[str, object]]:
    """One optimiser group per layer and kind: the rate falls by `layer_decay` with each block away from the head.

    Args:
        layered: parameters with their layer, from 0 to `last`, and whether their weights decay.
    """
    rate = options.learning_rate * options.batch_size / 256
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for layer, decayed, parameter in layered:
        # At one rate for all layers there is nothing to tell them apart by, and fewer groups step faster.
        groups.setdefault((layer if layer_decay < 1 else last, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": 0.0,
            "base_lr": rate * layer_decay ** (last - layer),
            "weight_decay": options.weight_decay if decayed else 0.0,
        }
        for (layer, decayed), parameters in groups.items()
    ]


def _groups(classifier: Classifier, options: FinetuneOptions, layer_decay: float) -> list[dict[str, object]]:
    last = classifier.model.design.encoder.depth + 1
    layered = [
        (layer, weight_decayed(name, parameter), parameter)
        for name, parameter in classifier.named_parameters()
        if (layer := _layer(name, last)) is not None
    ]
    return layered_groups(layered, last, options, layer_decay)


def _layer(name: str, last: int) -> int | None:
    """0 for the embedding, 1 to depth for the blocks, `last` for what follows; None for what encodes nothing."""
    if found := re.match(r"model\.blocks\.(\d+)\.", name):
        return int(found[1]) + 1
    if name.startswith(("model.patch_embed", "model.tube_embed", "model.encoder_places", "model.class_token")):
        return 0
    return last if name.startswith(("model.norm.", "head.")) else None
