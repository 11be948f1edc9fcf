"""The tasks' training steps, made from random data of a preset's shapes: what the training benchmarks time.

A step is what the shared loop does, from uint8 images (or tokens, or frames) that lie on the device to the updated
weights. Random data takes as long as real data, and a machine without data sets can run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.objectives.float32 import in_float32
from naslab.search_spaces.common.training import adamw
from naslab.search_spaces.common.training.policy import Loss, Policy
from naslab.search_spaces.common.training.recording import Recorded
from naslab.search_spaces.common.training.step import Stepper
from naslab.search_spaces.data import Augmentation, AugmentationOptions, CropAndFlip
from naslab.search_spaces.nasiam.frameworks import Views
from naslab.search_spaces.nasiam.recipes import RECIPES, make_optimiser

FRAMEWORKS = ("simclr", "simsiam", "byol", "mocov2")
TASKS = (*FRAMEWORKS, "mae", "token_reduction", "smaug", "altup")
BATCH = {"altup": 16, "smaug": 64}
"""The tasks' default batches; 256 for the others."""


@dataclass(frozen=True)
class Case:
    """One task at one preset. `make` gives the same fresh model with its optimiser each time."""

    name: str
    batch_size: int
    device: torch.device
    make: Callable[[], tuple[nn.Module, torch.optim.Optimizer]]
    batch: Callable[[bool], Any]
    """Whether its random views are replayed from a CUDA graph."""
    loss: Loss
    convolutional: bool

    def step(self, policy: Policy) -> Callable[[], None]:
        """Whole steps, one a call, of a model of their own."""
        model, optimiser = self.make()
        stepper = Stepper(model.train(), optimiser, self.loss, policy)

        def step() -> None:
            stepper(self.batch(policy.cuda_graphs))
            if hasattr(model, "after_step"):
                model.after_step(0.5)

        return step


def make_case(task: str, preset: str, device: torch.device, batch_size: int | None = None) -> Case:
    """The reference configuration of a task."""
    framework = {"framework": task} if task in FRAMEWORKS else {}
    space: Any = find_space("nasiam" if framework else task, preset, framework)
    size = batch_size or BATCH.get(task, 256)

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        seed_everything(0)
        model = space.build(space.reference).to(device)
        trained = [p for p in model.parameters() if p.requires_grad]
        if framework:
            return model, make_optimiser(RECIPES[task], model, trained, size)
        return model, adamw(model.named_parameters(), 1e-4, 0.05)

    batch, loss = _parts(task, space, size, device)
    return Case(f"{task} {preset}", size, device, make, batch, loss, convolutional=bool(framework))


def _parts(task: str, space: Any, size: int, device: torch.device) -> tuple[Callable[[bool], Any], Loss]:
    if task == "altup":
        batch = _on(space.example_input(size), device)
        return (lambda records: batch), lambda model, batch: model(**batch)
    if task == "smaug":
        batch = _on(space.example_input(size), device)
        return (lambda records: batch), lambda model, batch: model(**batch)["loss"]
    options = space.options
    channels, side = options.in_channels, options.image_size
    images = torch.randint(256, (size, channels, side, side), dtype=torch.uint8).to(device)
    generator = torch.Generator(device).manual_seed(0)
    grey = AugmentationOptions.for_framework(task, channels) if task in FRAMEWORKS else CropAndFlip()
    augmentation = Augmentation(grey, (0.5,) * channels, (0.25,) * channels)
    recorded = Recorded(augmentation, "a random view")

    def view(records: bool) -> torch.Tensor:
        seen: torch.Tensor = (recorded if records else augmentation)(images, generator=generator)
        return seen

    if task in FRAMEWORKS:
        return (lambda records: Views(view(records), view(records))), lambda model, views: model.loss(views)
    if task == "mae":
        tokens = space.most_tokens
        noise = lambda: torch.rand(size, tokens, generator=generator, device=device)  # noqa: E731
        return (lambda records: (view(records), noise())), lambda model, batch: model(*batch).loss
    labels = torch.randint(options.num_classes, (size,)).to(device)
    return (lambda records: (view(records), labels)), _classification


def _classification(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    images, labels = batch
    return in_float32(F.cross_entropy)(model(images), labels)


def _on(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
