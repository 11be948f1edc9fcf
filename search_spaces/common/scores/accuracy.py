"""Accuracy of answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def accuracy(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Share of rows whose largest logit is that of the label; logits that are equal share the point.

    Logits that are not a number are as low as can be. A label that is no class, such as -1, is never right.
    """
    known = (labels_N >= 0) & (labels_N < logits_NC.shape[1])
    return float(_points(logits_NC[known], labels_N[known]).sum()) / len(labels_N)


def most_frequent(known_N: Tensor, labels_M: Tensor) -> float:
    """Share of labels that are the most frequent of those known, the lowest of equals."""
    return float((labels_M == known_N.mode().values).double().mean())


def macro_f1(logits_NC: Tensor, labels_N: Tensor) -> float:
    """The mean over the classes that occur of each one's F1: harmonic mean of its precision and recall.

    An answer is the class of the largest logit, the first of equals.
    """
    answers, found = logits_NC.argmax(1), []
    for label in labels_N.unique():
        answered, wanted = answers == label, labels_N == label
        found.append(2 * int((answered & wanted).sum()) / int(answered.sum() + wanted.sum()))
    return sum(found) / len(found)


def choice_accuracy(scores: Sequence[Tensor], right: Sequence[int]) -> float:
    """Share of questions whose right option has the highest score; options of equal score share the point.

    Args:
        scores: of the options of each question, (options,), as many as it has.
        right: the place of the right option of each question.
    """
    points = [
        _points(row[None], torch.tensor([place], device=row.device)) for row, place in zip(scores, right, strict=True)
    ]
    return float(torch.cat(points).mean())


def _points(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    logits = logits_NC.double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best = logits == logits.amax(1, keepdim=True)
    return best.gather(1, labels_N[:, None])[:, 0].double() / best.sum(1)
