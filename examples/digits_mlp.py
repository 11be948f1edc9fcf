"""A search space in one file, with data of your own: how wide and deep a small classifier of a table should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab import search_spaces as lab
from naslab.errors import InputError
from naslab.search_spaces.common.controls import untrained

CLOTHES = Path(__file__).with_name("clothes.csv")
FEATURES, CLASSES = 49, 10


def load(path: Path) -> lab.Splits[tuple[Tensor, Tensor]]:
    """Features (N, 49) from 0 to 1 and classes (N,), from rows of a class and 49 grey values; 60, 20 and 20 %."""
    try:
        rows = torch.from_numpy(np.loadtxt(path, np.float32, delimiter=",", ndmin=2))
    except (OSError, ValueError) as error:
        raise InputError(f"task.data: {path} is not a table of numbers: {error}") from None
    if rows.shape[1] != 1 + FEATURES:
        raise InputError(f"task.data: {path} has {rows.shape[1]} columns, not a class and {FEATURES} features")
    if len(rows) < 5:
        raise InputError(f"task.data: {path} needs 5 rows or more for its splits, not {len(rows)}")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    parts = rows[order].tensor_split([int(0.6 * len(rows)), int(0.8 * len(rows))])
    return lab.Splits(*((part[:, 1:] / 255, part[:, 0].long()) for part in parts))


class ClassifierOptions(lab.Options):
    """What a study file may set under `task`."""

    data: Path = CLOTHES
    epochs: int = Field(5, gt=0)


class Classifier(lab.Task):
    """Cross-entropy training; top-1 accuracy in percent."""

    Options = ClassifierOptions
    options: ClassifierOptions
    metric = "top1"

    def __init__(self, space: lab.SearchSpace, options: ClassifierOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        self.data = load(options.data)

    @property
    def max_epochs(self) -> int:
        """Epochs of training."""
        return self.options.epochs

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[lab.Rung]:
        """Adam, one rung an epoch. Too short to be worth a checkpoint."""
        (x, y), model = self.data.train, model.to(self.device)
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for epoch in range(self.max_epochs):
            generator = torch.Generator().manual_seed(lab.derive_seed(seed, epoch))
            model.train()
            for rows in torch.randperm(len(x), generator=generator).split(50):
                loss = F.cross_entropy(model(x[rows].to(self.device)), y[rows].to(self.device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            yield lab.Rung(epoch + 1, {"loss": loss.item()})

    def evaluate(self, model: nn.Module, split: lab.Split, full: bool = True) -> dict[str, float]:
        """Share of right answers."""
        x, y = self.data.of(split)
        with torch.no_grad():
            answers = model.to(self.device).eval()(x.to(self.device)).argmax(1).cpu()
        return {"top1": 100 * (answers == y).float().mean().item()}

    def controls(self) -> tuple[lab.Control, ...]:
        """The reference before its training; what needs no network at all is one, too."""
        return (untrained(self),)

    def example_input(self, batch_size: int) -> Tensor:
        """What the profiler feeds the model."""
        x, _ = self.data.validation
        return x[torch.arange(batch_size) % len(x)].to(self.device)


@dataclass(frozen=True)
class Chosen:
    """A configuration as typed values; what does not apply has its default."""

    width: int
    depth: int
    regularise: Literal["none", "dropout"]
    rate: float = 0.0


class Space(lab.SearchSpace):
    """A multi-layer perceptron."""

    name = "digits_mlp"
    Options = lab.Options
    Task = Classifier

    @property
    def parameters(self) -> tuple[lab.Parameter, ...]:
        """Three decisions, and a fourth where dropout is used."""
        return (
            lab.Integer("width", 8, 256, log=True, reason="below 8 the ten classes no longer fit; 256 is plenty here"),
            lab.Integer("depth", 1, 3, reason="hidden layers"),
            lab.Categorical("regularise", ("none", "dropout")),
            lab.Float("rate", 0.1, 0.5, when=lab.When("regularise", ("dropout",)), reason="share of units dropped"),
        )

    @property
    def reference(self) -> lab.Configuration:
        """What most people would write down first."""
        return self.configuration({"width": 128, "depth": 2, "regularise": "none"})

    def build(self, configuration: lab.Configuration) -> nn.Module:
        """Hidden layers, then a logit a class."""
        chosen, size, modules = configuration.into(Chosen), FEATURES, list[nn.Module]()
        for _ in range(chosen.depth):
            modules += [nn.Linear(size, chosen.width), nn.ReLU(), nn.Dropout(chosen.rate)]
            size = chosen.width
        return nn.Sequential(*modules, nn.Linear(size, CLASSES))
