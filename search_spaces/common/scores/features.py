"""Frozen features of a data set: how they are taken, in batches, and what kNN and a linear probe make of them."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from naslab.search_spaces.common.scores.knn import knn_accuracy
from naslab.search_spaces.common.scores.probe import linear_probe_accuracy
from naslab.search_spaces.data import Augmentation, ImageSet, few_labels
from naslab.search_spaces.task import TrainingDiverged

EVALUATION_BATCH = 1000
"""Images, or frames of clips, that are encoded at once."""
BOTH = ("knn_top1", "linear_top1")


def encode(
    function: Callable[[Tensor], Tensor], images: ImageSet, augmentation: Augmentation, device: torch.device
) -> Tensor:
    """`function` of all images, standardised but not augmented, in batches: float32 (N, F)."""
    fetched = images.each(images.fetch, torch.arange(len(images)), max(1, EVALUATION_BATCH // images.frames), device)
    return torch.cat([function(augmentation.normalise(part.to(device))).float() for part in fetched])


def score_features(
    bank: tuple[Tensor, Tensor],
    queries: tuple[Tensor, Tensor],
    num_classes: int,
    wanted: Collection[str] = BOTH,
    *,
    knn_k: int,
    knn_temperature: float,
    few: Tensor | None = None,
) -> dict[str, float]:
    """Percent right, by name, of those wanted among `knn_top1` and `linear_top1`.

    Args:
        bank, queries: features (N, F) and labels (N,), on one device.
        few: indices into the bank; given, both scores are taken from these alone, too, as `few_*`.

    Raises:
        TrainingDiverged: a feature is not finite.
    """
    (bank_x, bank_y), (x, y) = bank, queries
    if not bool(bank_x.isfinite().all() & x.isfinite().all()):
        raise TrainingDiverged("the features that the model gives are not finite")

    def knn(bx: Tensor, by: Tensor) -> float:
        return 100 * knn_accuracy(bx, by, x, y, num_classes, knn_k, knn_temperature)

    scores = {}
    if "knn_top1" in wanted:
        scores["knn_top1"] = knn(bank_x, bank_y)
    if "linear_top1" in wanted:
        scores["linear_top1"] = 100 * linear_probe_accuracy(bank_x, bank_y, x, y, num_classes)
    if few is not None:
        scores["few_knn_top1"] = knn(bank_x[few], bank_y[few])
        scores["few_linear_top1"] = 100 * linear_probe_accuracy(bank_x[few], bank_y[few], x, y, num_classes)
    return scores


def labelled_few(labels: Tensor, per_class: int | None, seed: int) -> Tensor | None:
    """Indices of `per_class` labelled images of each class, on the labels' device; None where None are asked for."""
    return None if per_class is None else few_labels(labels.cpu(), per_class, seed).to(labels.device)
