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
from naslab.search_spaces.common import controls
from naslab.search_spaces.common.scores import BOTH, encode, labelled_few, score_features
from naslab.search_spaces.common.training import adamw, scaled_rate, set_learning_rate, train_in_rungs
from naslab.search_spaces.common.training.finetune import FinetuneOptions, fine_tune
from naslab.search_spaces.data import Augmentation, AugmentationOptions, DatasetOptions, check_fit, load_dataset
from naslab.search_spaces.data.video import ClipAugmentation, ClipOptions, load_clips
from naslab.search_spaces.mae.classifier import Classifier, Pool, pooled, weight_decayed
from naslab.search_spaces.mae.model import Autoencoder
from naslab.search_spaces.mae.space import MAE
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.task import Control, Rung, Split, Task

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

    percentages = frozenset({"linear_top1", "knn_top1", "finetune_top1"})
    Options: ClassVar[type[Options]] = PretrainingOptions
    space: MAE
    options: Recipe

    def __init__(self, space: MAE, options: Recipe, device: torch.device) -> None:
        super().__init__(space, options, device)
        if options.pool == "class" and not space.options.class_token:
            raise InputError("task.pool: class needs space.options.class_token, which is off; use mean")
        self.metric = options.metric
        dataset = options.dataset
        self.data = load_clips(dataset) if isinstance(dataset, ClipOptions) else load_dataset(dataset)
        check_fit(self.data, space.options.in_channels, space.options.image_size, options.batch_size)
        self.train_images = self.data.train.to(device)
        self.augmentation = self._views()
        self._scratch = controls.trained(
            "scratch",
            "the metric after supervised training from scratch with all labels, as many steps as pre-training",
            self._from_scratch,
            self._scratch_scores,
        )

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
            images = self.augmentation(self.train_images.whole(indices).to(self.device), generator)
            yield images, torch.rand(len(indices), tokens, generator=generator, device=self.device)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Pre-train on masked samples; see Task.train."""
        autoencoder = cast(Autoencoder, model).to(self.device)
        autoencoder.standardised_by(self.data.mean, self.data.std)
        optimiser = self._optimiser(autoencoder)
        losses = partial(self._losses, autoencoder, optimiser, seed)
        return train_in_rungs(autoencoder, optimiser, losses, self.options, seed, checkpoint)

    def _optimiser(self, model: Autoencoder) -> torch.optim.Optimizer:
        options = self.options
        rate = scaled_rate(options.learning_rate, options.batch_size)
        return adamw(model.named_parameters(), rate, options.weight_decay, (0.9, 0.95), weight_decayed)

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
                steps, seed = options.steps(len(self._labelled)), self.options.dataset.seed
                classifier = self._supervised(autoencoder, indices, options, steps, seed, options.layer_decay)
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
        bank = self.data.train.labelled(None if full else options.rung_bank)
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
        self, model: Autoencoder, indices: Tensor, options: FinetuneOptions, steps: int, seed: int, layer_decay: float
    ) -> Classifier:
        """A classifier on a copy of the encoder, trained on the labelled samples at `indices`."""
        seed = derive_seed(seed, "supervised")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            classifier = Classifier(model, self.options.pool, len(self.data.classes)).to(self.device)
        images, optimiser = self.data.train.take(indices), classifier.optimiser(options, layer_decay)
        return fine_tune(
            classifier, optimiser, images, self.augmentation, options, steps=steps, seed=seed, device=self.device
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
        pixels = controls.raw_pixels(lambda flat, split: self._scores(flat, split, split == "test", BOTH))
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
        steps = self.options.epochs * self.num_batches
        if self.options.finetuning is not None:
            steps += options.steps(len(self._labelled))
        return {
            name: self._supervised(model, indices, options, steps, seed, layer_decay=1.0)
            for name, indices in self._label_sets(full=True).items()
        }

    def _scratch_scores(self, classifiers: dict[str, Classifier], split: Split) -> dict[str, float]:
        """The classifiers' own accuracies, and the scores of the first one's features."""
        scores = self._frozen_scores(classifiers["finetune_top1"].model, split, full=split == "test")
        return {**scores, **{name: self._accuracy(one, split) for name, one in classifiers.items()}}

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
