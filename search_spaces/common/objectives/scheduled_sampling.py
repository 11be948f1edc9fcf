"""Scheduled sampling: how much of what a decoder reads in training are its own predictions, and which tokens.

Bengio et al. 2015 let the share of gold tokens fall with the step i:

    linear           1 - c i, not below 0         c = 1 / (2 h)
    exponential      k^i, k < 1                   k = 2^(-1 / h)
    inverse_sigmoid  k / (k + exp(i / k)), k > 1  k ln k = h

where h is the step at which half of the tokens are gold. DySI asks no step: of a sequence that it predicts with
accuracy a, it replaces a share of strength x a x u, u uniform from 0 to 1.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from torch import Tensor

Schedule: TypeAlias = Literal["none", "dynamic", "linear", "exponential", "inverse_sigmoid", "constant"]
BY_STEP = ("linear", "exponential", "inverse_sigmoid")
MOST_EXPONENT = 700.0
"""Above it exp overflows, and the share is 0."""


def gold_share(schedule: Schedule, step: float, half: float) -> float:
    """The share of gold tokens at a step, half of it at step `half`; a `constant` schedule has none."""
    match schedule:
        case "linear":
            return linear(step, 1.0, 0.5 / half)
        case "exponential":
            return exponential(step, 0.5 ** (1 / half))
        case "inverse_sigmoid":
            return inverse_sigmoid(step, steepness(half))
    return 0.0


def linear(step: float, start: float, slope: float) -> float:
    """max(0, start - slope i)."""
    return max(0.0, start - slope * step)


def exponential(step: float, base: float) -> float:
    """base^i, base below 1."""
    return float(base**step)


def inverse_sigmoid(step: float, k: float) -> float:
    """k / (k + exp(i / k)), k from 1."""
    return 1 / (1 + math.exp(min(step / k - math.log(k), MOST_EXPONENT)))


def steepness(half: float) -> float:
    """The k of the inverse sigmoid that is one half at step `half`: k ln k = half, by Newton's rule."""
    k = max(half, 1.0)
    for _ in range(50):
        k = max((half + k) / (1 + math.log(k)), 1.0)
    return k


def dynamic_counts(accuracy_B: Tensor, length_B: Tensor, draw_B: Tensor, rounding_B: Tensor, strength: float) -> Tensor:
    """How many tokens of each sequence DySI replaces, (B,): strength x accuracy x u x length, rounded at random.

    Rounded down, as an integer is cut, most short sequences would keep all of their tokens; so the mean is exact.

    Args:
        draw_B, rounding_B: uniform in [0, 1).
    """
    return (strength * accuracy_B * draw_B * length_B + rounding_B).floor().long()


def chosen(replaceable_BL: Tensor, noise_BL: Tensor, count_B: Tensor) -> Tensor:
    """`count_B` of the positions that may be replaced, drawn without replacement: those of the least noise."""
    noise_BL = noise_BL.masked_fill(~replaceable_BL, 2.0)
    rank_BL = noise_BL.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return replaceable_BL & (rank_BL < count_B[:, None])


def sampled(logits_BLV: Tensor, noise_BL: Tensor) -> Tensor:
    """A token (B, L) drawn from each distribution by uniform noise."""
    reached = logits_BLV.float().softmax(-1).cumsum(-1)
    return (reached < noise_BL[..., None]).sum(-1).clamp(max=logits_BLV.shape[-1] - 1)
