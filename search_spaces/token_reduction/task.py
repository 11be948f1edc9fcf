"""Supervised training of a classifier, from scratch or from pretrained weights, its tokens reduced as it learns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.search_spaces.common.controls import Features, raw_pixels, untrained
from naslab.search_spaces.common.modules.tokens import anneal, set_keep_rate
from naslab.search_spaces.common.objectives.float32 import in_float32
from naslab.search_spaces.common.scores.evaluation import Scoring
from naslab.search_spaces.common.tasks import SampleTask
from naslab.search_spaces.common.training import LayerDecay, adamw, scaled_rate, set_learning_rate, train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.finetune import FinetuneOptions
from naslab.search_spaces.common.training.policy import PolicyOptions
from naslab.search_spaces.data import Augmentation, CropAndFlip, DatasetOptions
from naslab.search_spaces.parameters import When
from naslab.search_spaces.task import Control, Rung, Split
from naslab.search_spaces.token_reduction.model import Classifier
from naslab.search_spaces.token_reduction.space import TokenReduction

ANNEALED = When("anneal", (True,))


class ClassificationOptions(FinetuneOptions):
    """Data, budget and recipe; the learning rate is for a batch of 256 and grows linearly with the batch."""

    dataset: DatasetOptions = DatasetOptions()
    augmentation: CropAndFlip = CropAndFlip()
    """Crops of 20 to 100 % of the area and flips, no colour."""
    epochs: int = Field(ge=1)
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor of the learning rate from a block to the one before it; below 1 for pretrained weights."""
    anneal: bool = True
    """EViT: let the keep rate fall from 1 to the configuration's."""
    anneal_start: Annotated[float, ANNEALED] = Field(1 / 30, ge=0, lt=1)
    """Share of the epochs at rate 1: EViT's 10 of 300."""
    anneal_share: Annotated[float, ANNEALED] = Field(1 / 3, ge=0, le=1)
    """Share of the epochs in which the rate falls: EViT's 100 of 300."""
    rung_epochs: int = Field(1, gt=0)
    """Epochs between two rungs."""
    policy: PolicyOptions = PolicyOptions()
    knn_k: int = Field(20, gt=0)
    knn_temperature: float = Field(0.1, gt=0)
    """Of the raw pixels' control."""


class Classification(SampleTask):
    """Trains on labelled images; the metric `top1` is the percentage of images told right."""

    percentages = frozenset({"top1"})
    Options = ClassificationOptions
    space: TokenReduction
    options: ClassificationOptions
    metric = "top1"

    compared = frozenset({"dataset"})

    def __init__(self, space: TokenReduction, options: ClassificationOptions, device: torch.device) -> None:
        if options.dataset.unlabeled:
            raise InputError("task.dataset.unlabeled: images without label train no classifier; leave it out")
        super().__init__(space, options, device)
        if len(self.data.classes) != space.options.num_classes:
            raise InputError(
                f"space.options.num_classes: {space.options.num_classes}, but {self.data.name} has "
                f"{len(self.data.classes)} classes"
            )

    def views(self) -> Augmentation:
        """Crops and flips."""
        return Augmentation(self.options.augmentation, self.data.mean, self.data.std)

    @property
    def scoring(self) -> Scoring:
        """Of the raw pixels' control."""
        return Scoring(knn_k=self.options.knn_k, knn_temperature=self.options.knn_temperature)

    def batches(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented images (B, C, H, W) and labels (B,), which seed and epoch decide."""
        labels = self.train_labels
        for batch in self.whole_batches(len(labels), seed, "order", epoch):
            yield self.view(batch), labels[batch.indices]

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Train with labels; see Task.train. At a rung the model has the configuration's own keep rate."""
        classifier = cast(Classifier, model).to(self.device)
        optimiser = self._optimiser(classifier)
        batches = partial(self._steps, seed=seed)
        options = self.options
        return train_in_rungs(
            classifier, optimiser, batches, self._loss, options, seed, checkpoint, wanted=self._wanted()
        )

    def _wanted(self) -> Wanted:
        """A keep rate that falls gives other shapes at each step: `auto` compiles and records nothing then."""
        wanted = Wanted.by(self)
        return wanted.without("compile", "cuda_graphs") if self.options.anneal else wanted

    def keep_rate(self, target: float, epoch: float) -> float:
        """The rate in training after `epoch` epochs, fractions included."""
        options = self.options
        if not options.anneal:
            return target
        return anneal(epoch, target, options.anneal_start * options.epochs, options.anneal_share * options.epochs)

    def _steps(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        steps, options, reduction = self.steps_per_epoch, self.options, cast(Classifier, model).reduction
        selects = reduction.rule == "evit"
        for step, batch in enumerate(self.batches(seed, epoch)):
            now = epoch + step / steps
            set_learning_rate(optimiser, now / options.epochs, options.warmup)
            if selects:
                set_keep_rate(model, self.keep_rate(reduction.keep_rate, now))
            yield batch
        if selects:
            set_keep_rate(model, reduction.keep_rate)

    def _loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return in_float32(F.cross_entropy)(model(images), labels, label_smoothing=self.options.label_smoothing)

    def _optimiser(self, model: Classifier) -> torch.optim.Optimizer:
        options, depth = self.options, model.depth
        unchanged = {f"network.{name}" for name in model.network.no_weight_decay()}
        return adamw(
            model.named_parameters(),
            scaled_rate(options.learning_rate, options.batch_size),
            options.weight_decay,
            decays=lambda name, parameter: parameter.ndim > 1 and name not in unchanged,
            layers=LayerDecay(options.layer_decay, depth + 1, lambda name: _layer(name, depth)),
        )

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """`top1`, percent of the split's images, whole, at the configuration's keep rate."""
        return {"top1": self.scores.accuracy(model.to(self.device).eval(), split)}

    def controls(self) -> tuple[Control, ...]:
        """Nearest neighbours of the pixels, and the reference before its training."""
        return (
            raw_pixels(self._nearest_neighbours, "weighted kNN on the images themselves"),
            untrained(self, "the metric of the reference before any training here"),
        )

    def _nearest_neighbours(self, features: Features, split: Split) -> dict[str, float]:
        return {"top1": self.scores.features(features, split, full=True, wanted=("knn_top1",))["knn_top1"]}

    def example_input(self, batch_size: int) -> dict[str, Tensor]:
        """Standardised validation images and their labels."""
        images, labels = self.examples(batch_size)
        return {"images": images, "labels": labels}


def _layer(name: str, depth: int) -> int:
    """0 for what comes before the blocks, 1 to depth for these, depth + 1 for what follows."""
    parts = name.removeprefix("network.").split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return depth + 1 if parts[0] in ("norm", "fc_norm", "head", "head_dist") else 0
