"""A search space in one file: how wide and deep a small classifier of real images should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.search_spaces import (
    Categorical,
    Configuration,
    Control,
    Float,
    Integer,
    Options,
    Parameter,
    Rung,
    SearchSpace,
    Split,
    Task,
    When,
    derive_seed,
)
from naslab.search_spaces.common.scores import knn_accuracy
from naslab.search_spaces.data import DatasetOptions, load_dataset

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class NoOptions(Options):
    """The space has nothing that a study fixes."""


class ClassifierOptions(Options):
    """What a study file may set under `task`."""

    dataset: DatasetOptions = DatasetOptions(train=1000, validation=500, test=500)
    epochs: int = Field(3, gt=0)


class Classifier(Task):
    """Cross-entropy training; top-1 accuracy in percent."""

    Options = ClassifierOptions
    metric = "top1"

    def __init__(self, space: SearchSpace, options: ClassifierOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        self.data = load_dataset(options.dataset)

    @property
    def max_epochs(self) -> int:
        """Epochs of training."""
        return int(self.options.epochs)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Adam, one rung an epoch. Too short to be worth a checkpoint."""
        optimiser = torch.optim.Adam(model.to(self.device).parameters(), lr=1e-3)
        for epoch in range(self.max_epochs):
            generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
            model.train()
            for indices in torch.randperm(len(self.data.train), generator=generator).split(100):
                loss = F.cross_entropy(model(self.pixels("train", indices)), self.data.train.labels[indices])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            yield Rung(epoch + 1, {"loss": loss.item()})

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Share of right answers."""
        images = getattr(self.data, split)
        with torch.no_grad():
            answers = model.eval()(self.pixels(split, torch.arange(len(images)))).argmax(1)
        return {"top1": 100 * (answers == images.labels).float().mean().item()}

    def controls(self) -> tuple[Control, ...]:
        """What needs no network at all."""
        return (Control("raw_pixels", "nearest neighbours on the pixels", self._nearest, seeded=False),)

    def _nearest(self, seed: int, split: Split) -> dict[str, float]:
        bank, queries = self.data.train, getattr(self.data, split)
        x, q = (self.pixels(s, torch.arange(len(d))).flatten(1) for s, d in (("train", bank), (split, queries)))
        return {"top1": 100 * knn_accuracy(x, bank.labels, q, queries.labels, len(self.data.classes), k=10)}

    def pixels(self, split: str, indices: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) between 0 and 1."""
        images: Tensor = getattr(self.data, split).fetch(indices)
        return images.float().div(255).to(self.device)

    def example_input(self, batch_size: int) -> Tensor:
        """What the profiler feeds the model."""
        return self.pixels("validation", torch.arange(batch_size) % len(self.data.validation))


class Space(SearchSpace):
    """A multi-layer perceptron."""

    name = "digits_mlp"
    Options = NoOptions
    Task = Classifier

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Four decisions, the last only where dropout is used."""
        return (
            Integer("width", 8, 256, log=True, reason="below 8 the ten classes no longer fit; 256 is plenty here"),
            Integer("depth", 1, 3, reason="hidden layers"),
            Categorical("activation", tuple(ACTIVATIONS)),
            Categorical("regularise", ("none", "dropout")),
            Float("rate", 0.1, 0.5, when=When("regularise", ("dropout",)), reason="share of units dropped"),
        )

    @property
    def reference(self) -> Configuration:
        """What most people would write down first."""
        return self.configuration({"width": 128, "depth": 2, "activation": "relu", "regularise": "none"})

    def build(self, configuration: Configuration) -> nn.Module:
        """Flatten, hidden layers, ten logits."""
        width, size = int(str(configuration["width"])), 28 * 28
        modules: list[nn.Module] = [nn.Flatten()]
        for _ in range(int(str(configuration["depth"]))):
            modules += [nn.Linear(size, width), ACTIVATIONS[str(configuration["activation"])]()]
            if configuration["regularise"] == "dropout":
                modules.append(nn.Dropout(float(str(configuration["rate"]))))
            size = width
        return nn.Sequential(*modules, nn.Linear(size, 10))
