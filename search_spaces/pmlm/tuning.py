"""Supervised training of a copy of a pre-trained model, of whatever has a loss for some of its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.search_spaces.common.training import adamw, set_learning_rate
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed, seed_everything

SCORED = 128
"""Samples of a batch that is scored."""


class TuningOptions(Options):
    """Recipe of a fine-tuning; the rate is that of a small model which was trained for minutes."""

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises, before it falls along a cosine."""
    seed: int = Field(0, ge=0)
    """Decides the new weights, the order of the samples, dropout and noise."""


def tune(
    module: nn.Module,
    loss: Callable[[Tensor, torch.Generator], Tensor],
    samples: int,
    options: TuningOptions,
    device: torch.device,
) -> None:
    """Train `module` on a number of samples by the loss of those at given indices."""
    generator = torch.Generator().manual_seed(derive_seed(options.seed, "tune"))
    optimiser = adamw(module.named_parameters(), options.learning_rate, options.weight_decay)
    steps = options.epochs * math.ceil(samples / options.batch_size)
    module.train()
    for step, indices in enumerate(_batches(samples, options, generator)):
        set_learning_rate(optimiser, step / steps, options.warmup)
        optimiser.zero_grad(set_to_none=True)
        loss(indices.to(device), generator).backward()
        optimiser.step()
    module.eval()


@contextmanager
def seeded(options: TuningOptions, device: torch.device) -> Iterator[None]:
    """Within it the global generators follow the recipe's seed; afterwards they are where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_everything(derive_seed(options.seed, "fine-tuning"))
        yield


def _batches(samples: int, options: TuningOptions, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(options.epochs):
        yield from torch.randperm(samples, generator=generator).split(options.batch_size)
