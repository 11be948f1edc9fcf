"""An encoder on a labelled data set: scores of its frozen features, and of classifiers trained around it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.efficiency.surroundings import seeded
from naslab.search_spaces.common.scores.accuracy import accuracy
from naslab.search_spaces.common.scores.features import BOTH, encode, labelled_few, score_features
from naslab.search_spaces.common.training.finetune import FinetuneOptions, Tunable, fine_tune
from naslab.search_spaces.data import Augmentation, ImageData, ImageSet
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.splits import Split


class Scoring(Options):
    """How features are scored."""

    knn_k: int = Field(20, gt=0)
    knn_temperature: float = Field(0.1, gt=0)
    rung_bank: int = Field(2000, gt=0)
    """How many labelled training samples a rung's score may use; the full evaluation uses all."""
    labels_per_class: int | None = Field(None, gt=0)
    """Also score with this many labels a class (`few_knn_top1`, `few_linear_top1`, `few_finetune_top1`)."""


Model = TypeVar("Model", bound=Tunable)


@dataclass(frozen=True)
class Evaluation:
    """Whole samples of a data set, standardised, on a device; `seed` decides which labels are the few."""

    data: ImageData
    augmentation: Augmentation
    device: torch.device
    scoring: Scoring
    seed: int

    @torch.no_grad()
    def encoded(self, function: Callable[[Tensor], Tensor], images: ImageSet) -> Tensor:
        """`function` of all images, float32 (N, F)."""
        return encode(function, images, self.augmentation, self.device)

    @torch.no_grad()
    def features(
        self, function: Callable[[Tensor], Tensor], split: Split, full: bool, wanted: Collection[str] = BOTH
    ) -> dict[str, float]:
        """Percent right by features (N, F) of samples, the wanted of `knn_top1` and `linear_top1`; in full `few_*`."""
        bank, queries = self.data.train.labelled(None if full else self.scoring.rung_bank), self.data.of(split)
        bank_y, y = bank.labels.to(self.device), queries.labels.to(self.device)
        bank_x, x = self.encoded(function, bank), self.encoded(function, queries)
        return score_features(
            (bank_x, bank_y),
            (x, y),
            len(self.data.classes),
            wanted,
            knn_k=self.scoring.knn_k,
            knn_temperature=self.scoring.knn_temperature,
            few=labelled_few(bank_y, self.scoring.labels_per_class, self.seed) if full else None,
        )

    def tuned(
        self,
        make: Callable[[], Model],
        options: FinetuneOptions,
        steps: int,
        seed: int,
        layer_decay: float,
        full: bool = True,
    ) -> dict[str, Model]:
        """Classifiers that `make` gives, trained on all labels and in full also on few, by the name of their score."""
        labels = self.data.train.labels
        sets = {"finetune_top1": (labels >= 0).nonzero().flatten()}
        few = labelled_few(labels, self.scoring.labels_per_class, self.seed)
        if full and few is not None:
            sets["few_finetune_top1"] = few
        return {
            name: self._trained(make, indices, options, steps, derive_seed(seed, "supervised"), layer_decay)
            for name, indices in sets.items()
        }

    def _trained(
        self,
        make: Callable[[], Model],
        indices: Tensor,
        options: FinetuneOptions,
        steps: int,
        seed: int,
        layer_decay: float,
    ) -> Model:
        with seeded(seed, self.device):
            classifier = make().to(self.device)
        optimiser = classifier.optimiser(options, layer_decay)
        images = self.data.train.take(indices)
        return fine_tune(
            classifier, optimiser, images, self.augmentation, options, steps=steps, seed=seed, device=self.device
        )

    @torch.no_grad()
    def accuracy(self, classifier: nn.Module, split: Split) -> float:
        """Percent right by the logits of a classifier."""
        queries = self.data.of(split)
        return 100 * accuracy(self.encoded(classifier, queries), queries.labels.to(self.device))

    def accuracies(self, classifiers: Mapping[str, nn.Module], split: Split) -> dict[str, float]:
        """The same of each by its name."""
        return {name: self.accuracy(one, split) for name, one in classifiers.items()}
