"""Masked pre-training, scored by kNN, linear probe and fine-tuning of the encoder on whole samples.

A sample is an image (C, H, W) or a clip (T, C, H, W); of it nothing but data set and augmentation differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.errors import InputError
from naslab.search_spaces.common import controls
from naslab.search_spaces.common.modules.vit import Pool
from naslab.search_spaces.common.scores import BOTH
from naslab.search_spaces.common.tasks import PretrainingBudget, SampleTask
from naslab.search_spaces.common.training import adamw, scaled_rate, set_learning_rate, train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.classifier import Classifier
from naslab.search_spaces.common.training.finetune import FinetuneOptions
from naslab.search_spaces.data import Augmentation, CropAndFlip, DatasetOptions
from naslab.search_spaces.data.video import ClipAugmentation, ClipOptions
from naslab.search_spaces.mae.model import Autoencoder
from naslab.search_spaces.mae.space import MAE
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Unless
from naslab.search_spaces.seeds import seed_everything
from naslab.search_spaces.task import Control, Rung, Split

RAW_PIXELS = 200_000
"""Values of a sample up to which raw pixels are a control; a colour image of 224 pixels has 150,528."""


class Recipe(PretrainingBudget):
    """Budget and evaluation of a masked pre-training of images or clips; the defaults are MAE's."""

    augmentation: CropAndFlip | None = None
    """None: CropAndFlip's defaults, without flips where they would make labels wrong."""
    learning_rate: float = Field(1.5e-4, gt=0)
    """For a batch of 256; grows linearly with the batch."""
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the epochs in which the learning rate rises: 40 of 800 in the paper."""
    metric: Literal["linear_top1", "knn_top1", "finetune_top1"] = "linear_top1"
    pool: Pool = "mean"
    """Features of a sample: the mean of its patches, or the class token, which the loss does not reach directly."""
    rung_bank: Annotated[int, Unless("metric", ("finetune_top1",))] = Field(2000, gt=0)
    """As everywhere; fine-tuning goes over all labels at a rung, too."""
    finetune: FinetuneOptions | None = None
    """Recipe of fine-tuning; None: no `finetune_top1`, unless it is the metric."""

    @property
    def finetuning(self) -> FinetuneOptions | None:
        """The recipe in force."""
        if self.finetune is None and self.metric == "finetune_top1":
            return FinetuneOptions()
        return self.finetune


class PretrainingOptions(Recipe):
    """Of images."""

    dataset: DatasetOptions = DatasetOptions()


class ClipPretrainingOptions(Recipe):
    """Of clips."""

    dataset: ClipOptions = ClipOptions()


class MaskedPretraining(SampleTask):
    """Trains a masked autoencoder without labels; labels serve evaluation alone."""

    percentages = frozenset((*BOTH, "finetune_top1"))
    compared = SampleTask.compared | {"pool"}
    Options: ClassVar[type[Options]] = PretrainingOptions
    space: MAE
    options: Recipe

    def __init__(self, space: MAE, options: Recipe, device: torch.device) -> None:
        if options.pool == "class" and not space.options.class_token:
            raise InputError("task.pool: class needs space.options.class_token, which is off; use mean")
        super().__init__(space, options, device)
        self.metric = options.metric
        self._scratch = controls.trained(
            "scratch",
            "the metric after supervised training from scratch with all labels, as many steps as pre-training",
            self._from_scratch,
            self._scratch_scores,
        )

    def views(self) -> Augmentation:
        """Crops and flips, of clips with a window of frames; no flips where they make labels wrong."""
        dataset, data = self.options.dataset, self.data
        chosen = self.options.augmentation or (CropAndFlip(flip=0) if data.sided else CropAndFlip())
        if data.sided and chosen.flip > 0:
            raise InputError(f"task.augmentation.flip: {chosen.flip:g} would make labels of direction wrong; use 0")
        if not isinstance(dataset, ClipOptions):
            return Augmentation(chosen, data.mean, data.std)
        frames, stored = self.space.options.frames, data.train.frames
        return ClipAugmentation(chosen, data.mean, data.std, stored=stored, frames=frames, stride=dataset.stride)

    def batches(self, seed: int, epoch: int, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented samples and the noise of their masks (B, tokens), both of which seed and epoch decide."""
        for batch in self.whole_batches(len(self.data.train), seed, "order", epoch):
            images = self.view(batch)
            yield images, torch.rand(len(images), tokens, generator=batch.generator, device=self.device)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Pre-train on masked samples; see Task.train."""
        autoencoder = cast(Autoencoder, model).to(self.device)
        autoencoder.standardised_by(self.data.mean, self.data.std)
        optimiser = self._optimiser(autoencoder)
        batches = partial(self._steps, seed=seed)
        options = self.options
        return train_in_rungs(autoencoder, optimiser, batches, _loss, options, seed, checkpoint, wanted=Wanted.by(self))

    def _optimiser(self, model: Autoencoder) -> torch.optim.Optimizer:
        options = self.options
        rate = scaled_rate(options.learning_rate, options.batch_size)
        return adamw(model.named_parameters(), rate, options.weight_decay, (0.9, 0.95), decays_in_pretraining)

    def _steps(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        steps, tokens = self.steps_per_epoch, cast(Autoencoder, model).design.masking.length
        for step, batch in enumerate(self.batches(seed, epoch, tokens)):
            set_learning_rate(optimiser, (epoch + step / steps) / self.options.epochs, self.options.warmup)
            yield batch

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Scores in percent of the encoder on whole samples: `knn_top1`, `linear_top1`, `finetune_top1`, `few_*`.

        The probe standardises features as a BatchNorm without affine parameters does. In full every score that the
        options ask for; else the metric alone.
        """
        autoencoder = cast(Autoencoder, model).to(self.device).eval()
        scores = self._features(partial(autoencoder.pooled, pool=self.options.pool), split, full)
        options = self.options.finetuning
        if options is None or not (full or self.metric == "finetune_top1"):
            return scores
        steps, seed = options.steps(self._labelled), self.options.dataset.seed
        tuned = self.scores.tuned(self._classifier(autoencoder), options, steps, seed, options.layer_decay, full)
        return {**scores, **self.scores.accuracies(tuned, split)}

    def _features(self, features: controls.Features, split: Split, full: bool) -> dict[str, float]:
        wanted = BOTH if full else tuple(name for name in BOTH if name == self.metric)
        return self.scores.features(features, split, full, wanted) if wanted else {}

    @property
    def _labelled(self) -> int:
        return int((self.data.train.labels >= 0).sum())

    def _classifier(self, model: Autoencoder) -> Callable[[], Classifier]:
        return partial(Classifier, model, self.options.pool, len(self.data.classes))

    def controls(self) -> tuple[Control, ...]:
        """Raw pixels, the encoder as initialised, and one trained with the labels instead, for as many steps.

        There are no raw pixels beside a metric that trains the encoder, nor of samples too large to be features.
        """
        options = self.space.options
        values = options.in_channels * options.frames * options.image_size**2
        pixels = controls.raw_pixels(lambda flat, split: self.scores.features(flat, split, split == "test"))
        return (
            *((pixels,) if self.metric in BOTH and values <= RAW_PIXELS else ()),
            controls.untrained(self, "the metric on the untrained encoder's features"),
            self._scratch,
        )

    def _from_scratch(self, seed: int) -> dict[str, Classifier]:
        """The reference's encoder trained with all labels, and with few, by the name of its accuracy."""
        recipe = {"batch_size", "learning_rate", "weight_decay", "warmup"}
        options = self.options.finetuning or FinetuneOptions(**self.options.model_dump(include=recipe))
        seed_everything(seed)
        model = self.space.build(self.space.reference)
        steps = self.options.epochs * self.steps_per_epoch
        if self.options.finetuning is not None:
            steps += options.steps(self._labelled)
        return self.scores.tuned(self._classifier(model), options, steps, seed, layer_decay=1.0)

    def _scratch_scores(self, classifiers: dict[str, Classifier], split: Split) -> dict[str, float]:
        """The classifiers' own accuracies, and the scores of the first one's features."""
        scores = self._features(classifiers["finetune_top1"].features, split, full=split == "test")
        return {**scores, **self.scores.accuracies(classifiers, split)}

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """See Task.benchmark; of fine-tuning its recipe, too."""
        tuned = self.options.finetuning if self.metric == "finetune_top1" else None
        return {**super().benchmark, **({"finetune": tuned.model_dump(mode="json")} if tuned else {})}

    def example_input(self, batch_size: int) -> dict[str, Tensor]:
        """Standardised validation samples, and noise for the smallest patches."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(batch_size, self.space.most_tokens, generator=generator)
        return {"images": self.examples(batch_size)[0], "noise": noise.to(self.device)}


class ClipPretraining(MaskedPretraining):
    """The same on clips."""

    Options = ClipPretrainingOptions


def decays_in_pretraining(name: str, parameter: nn.Parameter) -> bool:
    """Matrices, class and mask tokens and positions; not biases and norms (timm's rule in MAE's code)."""
    return parameter.ndim > 1 or name.endswith(("_token", "_places"))


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cast(Autoencoder, model)(*batch).loss  # type: ignore[no-any-return]
