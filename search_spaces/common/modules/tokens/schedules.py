"""How much is dropped when: a keep rate over the epochs, merges over the layers."""

from __future__ import annotations

import math

from naslab.errors import InputError


def check_keep_rate(keep_rate: float) -> None:
    """Raise an InputError unless the rate is above 0 and at most 1."""
    if not 0 < keep_rate <= 1:
        raise InputError(f"keep_rate: {keep_rate} is not above 0 and at most 1")


def anneal(epoch: float, keep_rate: float, start: float = 10, over: float = 100) -> float:
    """The keep rate at an epoch: 1 until `start`, then down a half cosine to `keep_rate` after `over` more epochs.

    Args:
        epoch: fractions advance within an epoch, as published (every iteration).
        start: epochs at rate 1.
        over: epochs of the fall; at 0 it is a step.

    Raises:
        InputError: a rate not above 0 and at most 1, or a negative start or length.
    """
    check_keep_rate(keep_rate)
    if start < 0 or over < 0:
        raise InputError(f"anneal: start {start} and over {over} are epochs, 0 or more")
    if epoch < start:
        return 1.0
    if epoch >= start + over:
        return keep_rate
    return keep_rate + (1 - keep_rate) * (1 + math.cos(math.pi * (epoch - start) / over)) / 2


def merge_schedule(r: int, layers: int, inflection: float = 0.0) -> list[int]:
    """Tokens to merge in each layer, r on average.

    Args:
        inflection: from -1 (from 2r falling to 0) over 0 (constant) to 1 (from 0 rising to 2r), as ToMe counts it.

    Raises:
        InputError: r is negative, there is no layer, or the inflection is not -1 to 1.
    """
    if r < 0 or layers < 1 or not -1 <= inflection <= 1:
        raise InputError(f"merge_schedule: r {r} >= 0, layers {layers} >= 1, inflection {inflection} of -1 to 1 needed")
    first = int(r * (1 - inflection))
    step = (2 * r - first - first) / max(1, layers - 1)
    return [int(first + step * layer) for layer in range(layers)]
