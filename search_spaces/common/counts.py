"""From a share to a count of tokens, as published, and back to the roundest share of that count."""

from __future__ import annotations

import math
from collections.abc import Callable

STEPS = (20, 100, 200, 1000, 2000, 10_000, 20_000, 100_000)
"""Grids of round numbers in [0, 1], coarsest first: twentieths, hundredths and so on."""


def visible_tokens(length: int, masking_ratio: float) -> int:
    """Tokens that a random mask leaves: int(length (1 - ratio)), in floating point, as MAE's code has it."""
    return int(length * (1 - masking_ratio))


def kept_tokens(length: int, keep_rate: float) -> int:
    """Tokens that EViT keeps of those beside the class token: ceil(rate length), in floating point as published."""
    return math.ceil(keep_rate * length)


def roundest(share: float, count: Callable[[float], object], exact: float, width: float) -> float:
    """The roundest share that `count` takes for the same as `share`: one for all that build the same function.

    Args:
        count: what a share is rounded to; shares of one count lie side by side.
        exact: the count as a share, which decides between equally round ones.
        width: that shares of one count are at most apart, such as 1 / length.
    """
    wanted = count(share)
    for step in STEPS:
        places = range(max(math.ceil((exact - width) * step), 0), min(math.floor((exact + width) * step), step) + 1)
        for candidate in sorted((place / step for place in places), key=lambda c: abs(c - exact)):
            if count(candidate) == wanted:
                return candidate
    return share
