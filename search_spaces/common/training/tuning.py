"""Fine-tuning of a copy of a pre-trained model on labelled samples, of whatever has a loss for some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.search_spaces.common.training.optimisers import adamw
from naslab.search_spaces.common.training.schedule import set_learning_rate
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed


class TuningOptions(Options):
    """AdamW with warm-up and cosine; the rate is that of a small model which was pre-trained for minutes.

    Models of the size of BERT take about 2e-5.
    """

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0, le=10)
    weight_decay: float = Field(0.01, ge=0, le=100)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises, before it falls along a cosine."""


def tune(
    module: nn.Module,
    loss: Callable[[Tensor, torch.Generator], Tensor],
    samples: int,
    options: TuningOptions,
    seed: int,
    device: torch.device,
    clip_norm: float | None = None,
) -> None:
    """Train a module on a number of samples; weights that the loss does not reach stay as they are.

    Args:
        loss: of the samples with given indices; the generator, on the CPU, is for noise.
        seed: of the order of the samples, and of that generator.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "tune"))
    optimiser = adamw(module.named_parameters(), options.learning_rate, options.weight_decay)
    steps = options.epochs * math.ceil(samples / options.batch_size)
    module.train()
    for step, indices in enumerate(_batches(samples, options, generator)):
        set_learning_rate(optimiser, step / steps, options.warmup)
        optimiser.zero_grad(set_to_none=True)
        loss(indices.to(device), generator).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        optimiser.step()
    module.eval()


def _batches(samples: int, options: TuningOptions, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(options.epochs):
        yield from torch.randperm(samples, generator=generator).split(options.batch_size)
