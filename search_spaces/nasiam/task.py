"""Self-supervised pre-training by two views, scored by weighted kNN and a linear probe on frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.errors import InputError
from naslab.search_spaces.common.controls import Features, raw_pixels, untrained
from naslab.search_spaces.common.scores import (
    BOTH,
    EVALUATION_BATCH,
    effective_rank,
    encode,
    feature_std,
    labelled_few,
    score_features,
)
from naslab.search_spaces.common.training import train_in_rungs
from naslab.search_spaces.data import (
    Augmentation,
    AugmentationOptions,
    DatasetOptions,
    ImageSet,
    check_fit,
    load_dataset,
)
from naslab.search_spaces.nasiam import recipes
from naslab.search_spaces.nasiam.frameworks import Framework, Views
from naslab.search_spaces.nasiam.space import NASiam
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.task import Control, GradientTask, Rung, Split, TrainingPlan


class SelfSupervisedOptions(Options):
    """Data, budget and evaluation of a self-supervised study; the recipe is the framework's unless changed."""

    dataset: DatasetOptions = DatasetOptions()
    augmentation: AugmentationOptions | None = None
    """None: the framework's own for colour images, crop-flip-brightness-contrast for grey ones."""
    epochs: int = Field(gt=0)
    batch_size: int = Field(256, ge=2)
    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    metric: Literal["knn_top1", "linear_top1"] = "knn_top1"
    rung_epochs: int = Field(1, gt=0)
    """Epochs between two rungs."""
    knn_k: int = Field(20, gt=0)
    knn_temperature: float = Field(0.1, gt=0)
    rung_bank: int = Field(2000, gt=0)
    """How many labelled training images a rung's score may use; the full evaluation uses all."""
    labels_per_class: int | None = Field(None, gt=0)
    """Also score with this many labels a class (`few_knn_top1`, `few_linear_top1`)."""


class Featured(Protocol):
    """What evaluation asks of a model: a Framework, or the supernet around one."""

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Frozen features (B, F)."""

    def project(self, images_BCHW: Tensor) -> Tensor:
        """Projections (B, D)."""


class SelfSupervised(GradientTask):
    """Trains a siamese framework without labels; labels serve evaluation alone."""

    percentages = frozenset({"knn_top1", "linear_top1"})
    Options = SelfSupervisedOptions
    space: NASiam
    options: SelfSupervisedOptions

    def __init__(self, space: NASiam, options: SelfSupervisedOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        self.metric = options.metric
        self.data = load_dataset(options.dataset)
        check_fit(self.data, space.options.in_channels, space.options.image_size, options.batch_size)
        self.train_images = self.data.train.to(device)
        self.augmentation = Augmentation(
            options.augmentation or AugmentationOptions.for_framework(space.options.framework, self.data.channels),
            self.data.mean,
            self.data.std,
        )
        self.recipe = recipes.RECIPES[space.options.framework].changed(options.learning_rate, options.weight_decay)

    @property
    def max_epochs(self) -> int:
        """Epochs of pre-training."""
        return self.options.epochs

    @property
    def training_plan(self) -> TrainingPlan:
        """Two views of each image."""
        return TrainingPlan(self.num_batches() * self.options.epochs, self.options.batch_size, passes=2)

    def num_batches(self, share: tuple[float, float] = (0.0, 1.0)) -> int:
        """Whole batches in one epoch of `share`; the remainder is dropped, as batch statistics want equal batches."""
        first, last = self._bounds(share)
        return (last - first) // self.options.batch_size

    def batches(self, seed: int, epoch: int, share: tuple[float, float] = (0.0, 1.0)) -> Iterator[Views]:
        """Two augmented views per image; see GradientTask.batches."""
        first, last = self._bounds(share)
        generator = torch.Generator(self.device).manual_seed(derive_seed(seed, "order", epoch, first))
        order = torch.randperm(last - first, generator=generator, device=self.device) + first
        for indices in order.split(self.options.batch_size)[: self.num_batches(share)]:
            images = self.train_images.whole(indices).to(self.device)
            yield Views(self.augmentation(images, generator), self.augmentation(images, generator))

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
        return train_in_rungs(framework, optimiser, batches, _loss, self.options, seed, checkpoint)

    def _steps(self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int) -> Iterator[Views]:
        steps = self.num_batches()
        for step, views in enumerate(self.batches(seed, epoch)):
            progress = (epoch + step / steps) / self.options.epochs
            self.set_learning_rate(optimiser, progress)
            yield views
            cast(Framework, model).after_step(progress)

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """kNN on backbone features, collapse metrics of the projections; in full also the linear probe.

        Scores are in percent (`knn_top1`, `linear_top1`, `few_*`); `feature_std` and `effective_rank` tell collapse
        of the normalised projections: 1 and the width D when healthy, near 0 and 1 when collapsed.
        """
        featured = cast(Featured, model)
        model.to(self.device).eval()
        bank = self.data.train.labelled(None if full else self.options.rung_bank)
        scores = self._scores(featured.features, bank, split, full)
        projections = self._encoded(featured.project, self.data.of(split).head(EVALUATION_BATCH))
        return {**scores, "feature_std": feature_std(projections), "effective_rank": effective_rank(projections)}

    @torch.no_grad()
    def _encoded(self, function: Features, images: ImageSet) -> Tensor:
        return encode(function, images, self.augmentation, self.device)

    def _scores(self, features: Features, bank: ImageSet, split: Split, full: bool) -> dict[str, float]:
        options, queries = self.options, self.data.of(split)
        bank_y, y = bank.labels.to(self.device), queries.labels.to(self.device)
        return score_features(
            (self._encoded(features, bank), bank_y),
            (self._encoded(features, queries), y),
            len(self.data.classes),
            BOTH if full else (options.metric,),
            knn_k=options.knn_k,
            knn_temperature=options.knn_temperature,
            few=labelled_few(bank_y, options.labels_per_class, options.dataset.seed) if full else None,
        )

    def controls(self) -> tuple[Control, ...]:
        """Raw pixels, and the backbone as initialised: what is left to gain over both is what training gave."""

        def pixel_scores(pixels: Features, split: Split) -> dict[str, float]:
            return self._scores(pixels, self.data.train.labelled(), split, full=split == "test")

        return (
            raw_pixels(pixel_scores, "the metric on the images themselves"),
            untrained(self, "the metric on the untrained backbone's features"),
        )

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The images that are scored, the labelled bank and the scoring; see Task.benchmark."""
        return self.options.model_dump(
            mode="json", include={"metric", "dataset", "knn_k", "knn_temperature", "rung_bank"}
        )

    def example_input(self, batch_size: int) -> Tensor:
        """Normalised validation images."""
        images = self.data.validation.fetch(torch.arange(batch_size) % len(self.data.validation))
        return self.augmentation.normalise(images.to(self.device))


def _loss(model: nn.Module, views: Views) -> Tensor:
    return cast(Framework, model).loss(views)
