"""Masked pre-training, scored by kNN, linear probe and fine-tuning of the encoder on whole samples.

A sample is an image (C, H, W) or a clip (T, C, H, W); of it nothing but data set and augmentation differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.efficiency.errors import InputError
from naslab.search_spaces.common.scores import BOTH, encode, labelled_few, score_features
from naslab.search_spaces.data import Augmentation, AugmentationOptions, DatasetOptions, check_fit, load_dataset
from naslab.search_spaces.data.video import ClipAugmentation, ClipOptions, load_clips
from naslab.search_spaces.mae.finetune import (
    Classifier,
    FinetuneOptions,
    Pool,
    fine_tune,
    pooled,
    set_learning_rate,
    supervised_steps,
    weight_decayed,
)
from naslab.search_spaces.mae.model import Autoencoder
from naslab.search_spaces.mae.space import MAE
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.task import Control, Rung, Split, Task
from naslab.search_spaces.training import train_in_rungs

RAW_PIXELS = 200_000
"""Values of a sample up to which raw pixels are a control; a colour image of 224 pixels has 150,528."""


class CropAndFlip(AugmentationOptions):
    """MAE's augmentation: crops of 20 to 100 % of the area and flips, no colour."""

    jitter_probability: float = Field(0, ge=0, le=1)
    grey_probability: float = Field(0, ge=0, le=1)


class Recipe(Options):
    """Budget and evaluation of a masked pre-training of images or clips; the defaults are MAE's."""

    dataset: DatasetOptions | ClipOptions
    augmentation: CropAndFlip | None = None
    """None: CropAndFlip's defaults, without flips where they would make labels wrong."""
    epochs: int = Field(gt=0)
    batch_size: int = Field(256, ge=2)
    learning_rate: float = Field(1.5e-4, gt=0)
    """For a batch of 256; grows linearly with the batch."""
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the epochs in which the learning rate rises: 40 of 800 in the paper."""
    metric: Literal["linear_top1", "knn_top1", "finetune_top1"] = "linear_top1"
    pool: Pool = "mean"
    """Features of a sample: the mean of its patches, or the class token, which the loss does not reach directly."""
    rung_epochs: int = Field(1, gt=0)
    """Epochs between two rungs."""
    knn_k: int = Field(20, gt=0)
    knn_temperature: float = Field(0.1, gt=0)
    rung_bank: int = Field(2000, gt=0)
    """How many labelled training samples a rung's score may use; the full evaluation uses all."""
    labels_per_class: int | None = Field(None, gt=0)
    """Also score with this many labels a class (`few_knn_top1`, `few_linear_top1`, `few_finetune_top1`)."""
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


class MaskedPretraining(Task):
    """Trains a masked autoencoder without labels; labels serve evaluation alone."""

    Options: ClassVar[type[Options]] = PretrainingOptions
    space: MAE
    options: Recipe

    def __init__(self, space: MAE, options: Recipe, device: torch.device) -> None:
        super().__init__(space, options, device)
        if options.pool == "class" and not space.has_class_token:
            raise InputError("task.pool: class needs space.options.class_token, which is off; use mean")
        self.metric = options.metric
        dataset = options.dataset
        self.data = load_clips(dataset) if isinstance(dataset, ClipOptions) else load_dataset(dataset)
        check_fit(self.data, space.options.in_channels, space.options.image_size, options.batch_size)
        self.train_images = self.data.train.to(device)
        self.augmentation = self._views()
        self._scratch: tuple[int, Classifier, Classifier | None] | None = None

    def _views(self) -> Augmentation:
        dataset, data = self.options.dataset, self.data
        chosen = self.options.augmentation or (CropAndFlip(flip=0) if data.sided else CropAndFlip())
        if data.sided and chosen.flip > 0:
            raise InputError(f"task.augmentation.flip: {chosen.flip:g} would make labels of direction wrong; use 0")
        if not isinstance(dataset, ClipOptions):
            return Augmentation(chosen, data.mean, data.std)
        frames, stored = self.space.options.frames, data.train.frames
        return ClipAugmentation(chosen, data.mean, data.std, stored=stored, frames=frames, stride=dataset.stride)

    @property
    def max_epochs(self) -> int:
        """Epochs of pre-training."""
        return self.options.epochs

    @property
    def num_batches(self) -> int:
        """Whole batches in an epoch."""
        return len(self.data.train) // self.options.batch_size

    def batches(self, seed: int, epoch: int, tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented samples and the noise of their masks (B, tokens), both of which seed and epoch decide."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(seed, "order", epoch))
        order = torch.randperm(len(self.data.train), generator=generator, device=self.device)
        for indices in order.split(self.options.batch_size)[: self.num_batches]:
            images = self.augmentation(self.train_images.fetch(indices).to(self.device), generator)
            yield images, torch.rand(len(indices), tokens, generator=generator, device=self.device)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Pre-train on masked samples; see Task.train."""
        autoencoder = cast(Autoencoder, model).to(self.device)
        optimiser = self._optimiser(autoencoder)
        losses = partial(self._losses, autoencoder, optimiser, seed)
        return train_in_rungs(autoencoder, optimiser, losses, self.options, seed, checkpoint)

    def _optimiser(self, model: Autoencoder) -> torch.optim.Optimizer:
        options = self.options
        rate = options.learning_rate * options.batch_size / 256
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        groups = [
            {"params": chosen, "base_lr": rate, "weight_decay": options.weight_decay if decayed else 0.0}
            for decayed in (True, False)
            if (chosen := [p for name, p in named if weight_decayed(name, p) is decayed])
        ]
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)

    def _losses(self, model: Autoencoder, optimiser: torch.optim.Optimizer, seed: int, epoch: int) -> Iterator[Tensor]:
        steps = self.num_batches
        for step, (images, noise) in enumerate(self.batches(seed, epoch, model.design.masking.length)):
            set_learning_rate(optimiser, (epoch + step / steps) / self.options.epochs, self.options.warmup)
            yield model(images, noise).loss

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Scores in percent of the encoder on whole samples: `knn_top1`, `linear_top1`, `finetune_top1`, `few_*`.

        The probe standardises features as a BatchNorm without affine parameters does. In full every score that the
        options ask for; else the metric alone.
        """
        autoencoder = cast(Autoencoder, model).to(self.device).eval()
        scores = self._frozen_scores(autoencoder, split, full)
        options = self.options.finetuning
        if options is not None and (full or self.metric == "finetune_top1"):
            for name, indices in self._label_sets(full).items():
                images = self.data.train.take(indices)
                steps = supervised_steps(options, len(self._labelled))
                classifier = self._supervised(autoencoder, images, options, steps, self.options.dataset.seed)
                scores[name] = self._accuracy(classifier, split)
        return scores

    def _frozen_scores(self, model: Autoencoder, split: Split, full: bool) -> dict[str, float]:
        wanted = BOTH if full else tuple(name for name in BOTH if name == self.metric)
        if not wanted:
            return {}
        with torch.no_grad():
            return self._scores(lambda images: pooled(model, images, self.options.pool), split, full, wanted)

    def _scores(self, features: Any, split: Split, full: bool, wanted: tuple[str, ...]) -> dict[str, float]:
        options = self.options
        bank = self.data.train if full else self.data.train.head(options.rung_bank)
        queries = self.data.of(split)
        bank_x, x = (encode(features, images, self.augmentation, self.device) for images in (bank, queries))
        bank_y, y = bank.labels.to(self.device), queries.labels.to(self.device)
        return score_features(
            (bank_x, bank_y),
            (x, y),
            len(self.data.classes),
            wanted,
            knn_k=options.knn_k,
            knn_temperature=options.knn_temperature,
            few=labelled_few(bank_y, options.labels_per_class, options.dataset.seed) if full else None,
        )

    @property
    def _labelled(self) -> Tensor:
        return (self.data.train.labels >= 0).nonzero().flatten()

    def _label_sets(self, full: bool) -> dict[str, Tensor]:
        """Training samples whose labels a fine-tuning may use, by the name of its score."""
        sets = {"finetune_top1": self._labelled}
        few = labelled_few(self.data.train.labels, self.options.labels_per_class, self.options.dataset.seed)
        return {**sets, "few_finetune_top1": few} if full and few is not None else sets

    def _supervised(
        self, model: Autoencoder, images: Any, options: FinetuneOptions, steps: int, seed: int, scratch: bool = False
    ) -> Classifier:
        return fine_tune(
            model,
            images,
            len(self.data.classes),
            self.augmentation,
            options,
            pool=self.options.pool,
            steps=steps,
            seed=derive_seed(seed, "supervised"),
            device=self.device,
            from_scratch=scratch,
        )

    def _accuracy(self, classifier: Classifier, split: Split) -> float:
        queries = self.data.of(split)
        with torch.no_grad():
            answers = encode(classifier, queries, self.augmentation, self.device).argmax(1).cpu()
        return 100 * float((answers == queries.labels).float().mean())

    def controls(self) -> tuple[Control, ...]:
        """Raw pixels, the encoder as initialised, and one trained with the labels instead, for as many steps.

        There are no raw pixels beside a metric that trains the encoder, nor of samples too large to be features.
        """
        options = self.space.options
        values = options.in_channels * options.frames * options.image_size**2
        pixels = Control("raw_pixels", "the metric on the pixels themselves", self._raw_pixels, seeded=False)
        return (
            *((pixels,) if self.metric in BOTH and values <= RAW_PIXELS else ()),
            Control("untrained", "the metric on the untrained encoder's features", self._untrained),
            Control(
                "scratch",
                "the metric after supervised training from scratch with all labels, as many steps as pre-training",
                self._from_scratch,
            ),
        )

    def _raw_pixels(self, seed: int, split: Split) -> dict[str, float]:
        return self._scores(lambda images: images.flatten(1), split, split == "test", BOTH)

    def _untrained(self, seed: int, split: Split) -> dict[str, float]:
        seed_everything(seed)
        return self.evaluate(self.space.build(self.space.reference), split, full=split == "test")

    def _from_scratch(self, seed: int, split: Split) -> dict[str, float]:
        """The reference's encoder trained with labels: its own accuracy, and the scores of its features."""
        recipe = {"batch_size", "learning_rate", "weight_decay", "warmup"}
        options = self.options.finetuning or FinetuneOptions(**self.options.model_dump(include=recipe))
        if self._scratch is None or self._scratch[0] != seed:
            seed_everything(seed)
            model = self.space.build(self.space.reference)
            steps = self.options.epochs * self.num_batches
            if self.options.finetuning is not None:
                steps += supervised_steps(options, len(self._labelled))
            trained = [
                self._supervised(model, self.data.train.take(indices), options, steps, seed, scratch=True)
                for indices in self._label_sets(full=True).values()
            ]
            self._scratch = (seed, trained[0], trained[1] if len(trained) > 1 else None)
        _, classifier, few = self._scratch
        scores = self._frozen_scores(classifier.model, split, full=split == "test")
        scores["finetune_top1"] = self._accuracy(classifier, split)
        if few is not None:
            scores["few_finetune_top1"] = self._accuracy(few, split)
        return scores

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The samples that are scored, the labelled bank and the scoring; see Task.benchmark."""
        included = {"metric", "dataset", "knn_k", "knn_temperature", "rung_bank", "pool"}
        facts = self.options.model_dump(mode="json", include=included)
        options = self.options.finetuning
        return (
            {**facts, "finetune": options.model_dump(mode="json")}
            if self.metric == "finetune_top1" and options
            else facts
        )

    def example_input(self, batch_size: int) -> dict[str, Tensor]:
        """Standardised validation samples, and noise for the smallest patches."""
        chosen = torch.arange(batch_size) % len(self.data.validation)
        images = self.augmentation.normalise(self.data.validation.fetch(chosen).to(self.device))
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(batch_size, self.space.most_tokens, generator=generator)
        return {"images": images, "noise": noise.to(self.device)}


class ClipPretraining(MaskedPretraining):
    """The same on clips."""

    Options = ClipPretrainingOptions
