"""Self-supervised pre-training by two views, scored by weighted kNN and a linear probe on frozen features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.errors import InputError
from naslab.search_spaces.common.controls import Features, raw_pixels, untrained
from naslab.search_spaces.common.scores import (
    BOTH,
    EVALUATION_BATCH,
    effective_rank,
    feature_std,
)
from naslab.search_spaces.common.tasks import PretrainingBudget, SampleTask
from naslab.search_spaces.common.training import train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.data import (
    Augmentation,
    AugmentationOptions,
    DatasetOptions,
)
from naslab.search_spaces.nasiam import recipes
from naslab.search_spaces.nasiam.frameworks import Framework, Views
from naslab.search_spaces.nasiam.space import NASiam
from naslab.search_spaces.task import Control, GradientTask, Rung, Split


class SelfSupervisedOptions(PretrainingBudget):
    """Data, budget and evaluation of a self-supervised study; the recipe is the framework's unless changed."""

    dataset: DatasetOptions = DatasetOptions()
    augmentation: AugmentationOptions | None = None
    """None: the framework's own for colour images, crop-flip-brightness-contrast for grey ones."""
    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    metric: Literal["knn_top1", "linear_top1"] = "knn_top1"


class Featured(Protocol):
    """What evaluation asks of a model: a Framework, or the supernet around one."""

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Frozen features (B, F)."""

    def project(self, images_BCHW: Tensor) -> Tensor:
        """Projections (B, D)."""


class SelfSupervised(SampleTask, GradientTask):
    """Trains a siamese framework without labels; labels serve evaluation alone."""

    percentages = frozenset(BOTH)
    passes = 2  # two views of each image
    least_part = 2  # batch statistics of one sample are none
    Options = SelfSupervisedOptions
    space: NASiam
    options: SelfSupervisedOptions

    def __init__(self, space: NASiam, options: SelfSupervisedOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        self.metric = options.metric
        self.recipe = recipes.RECIPES[space.options.framework].changed(options.learning_rate, options.weight_decay)

    def views(self) -> Augmentation:
        """Of the options, or else the framework's own."""
        data, framework = self.data, self.space.options.framework
        chosen = self.options.augmentation or AugmentationOptions.for_framework(framework, data.channels)
        return Augmentation(chosen, data.mean, data.std)

    def num_batches(self, share: tuple[float, float] = (0.0, 1.0)) -> int:
        """Whole batches in one epoch of `share`; the remainder is dropped, as batch statistics want equal batches."""
        first, last = self._bounds(share)
        return (last - first) // self.options.batch_size

    def batches(self, seed: int, epoch: int, share: tuple[float, float] = (0.0, 1.0)) -> Iterator[Views]:
        """Two augmented views per image; see GradientTask.batches."""
        first, last = self._bounds(share)
        for batch in self.whole_batches(last - first, seed, "order", epoch, first, first=first):
            yield Views(self.view(batch), self.view(batch))

    def _bounds(self, share: tuple[float, float]) -> tuple[int, int]:
        number = len(self.data.train)
        first, last = round(share[0] * number), round(share[1] * number)
        if last - first < self.options.batch_size:
            raise InputError(
                f"task.batch_size: {self.options.batch_size} is more than the {last - first} training images of its "
                "share (a differentiable search halves the training set)"
            )
        return first, last

    def optimiser(self, model: nn.Module, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The recipe's optimiser."""
        return recipes.make_optimiser(self.recipe, model, parameters, self.options.batch_size)

    def set_learning_rate(self, optimiser: torch.optim.Optimizer, progress: float) -> None:
        """The recipe's schedule."""
        recipes.set_learning_rate(optimiser, progress)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Pre-train by the framework's loss; see Task.train."""
        framework = cast(Framework, model).to(self.device)
        optimiser = self.optimiser(framework, [p for p in framework.parameters() if p.requires_grad])
        batches = partial(self._steps, seed=seed)
        return train_in_rungs(
            framework, optimiser, batches, _loss, self.options, seed, checkpoint, wanted=Wanted.by(self)
        )

    def _steps(self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int) -> Iterator[Views]:
        steps = self.num_batches()
        for step, views in enumerate(self.batches(seed, epoch)):
            progress = (epoch + step / steps) / self.options.epochs
            self.set_learning_rate(optimiser, progress)
            cast(Framework, model).before_step()
            yield views
            cast(Framework, model).after_step(progress)

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """kNN on backbone features, collapse metrics of the projections; in full also the linear probe.

        Scores are in percent (`knn_top1`, `linear_top1`, `few_*`); `feature_std` and `effective_rank` tell collapse
        of the normalised projections: 1 and the width D when healthy, near 0 and 1 when collapsed.
        """
        featured, wanted = cast(Featured, model.to(self.device).eval()), BOTH if full else (self.metric,)
        scores = self.scores.features(featured.features, split, full, wanted)
        projections = self.scores.encoded(featured.project, self.data.of(split).head(EVALUATION_BATCH))
        return {**scores, "feature_std": feature_std(projections), "effective_rank": effective_rank(projections)}

    def controls(self) -> tuple[Control, ...]:
        """Raw pixels, and the backbone as initialised: what is left to gain over both is what training gave."""

        def pixel_scores(pixels: Features, split: Split) -> dict[str, float]:
            return self.scores.features(pixels, split, True, BOTH if split == "test" else (self.metric,))

        return (
            raw_pixels(pixel_scores, "the metric on the images themselves"),
            untrained(self, "the metric on the untrained backbone's features"),
        )

    def example_input(self, batch_size: int) -> Tensor:
        """Normalised validation images."""
        return self.examples(batch_size)[0]


def _loss(model: nn.Module, views: Views) -> Tensor:
    return cast(Framework, model).loss(views)
