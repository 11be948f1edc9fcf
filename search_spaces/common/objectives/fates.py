"""What becomes of a hidden token: [MASK], any other token, or it stays (Devlin et al. 2019; published 80/10/10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text import SpecialIds

FateOf: TypeAlias = Literal["token", "unit"]


@dataclass(frozen=True)
class Fates:
    """Shares of the hidden tokens that become [MASK] or a random token; the rest stay. `of`: what draws for itself.

    Raises:
        InputError: a share below 0, or more than 1 together.
    """

    mask: float = 0.8
    random: float = 0.1
    of: FateOf = "token"

    def __post_init__(self) -> None:
        if not (self.mask >= 0 and self.random >= 0 and self.mask + self.random <= 1):
            raise InputError(
                f"shares of hidden tokens: [MASK] {self.mask:g} and random {self.random:g} do not fit in 1"
            )


PUBLISHED = Fates()


def fates_beside(random: float, kept: float, where: str) -> Fates:
    """[MASK] but for a random and a kept share; `where` are the options `random_share` and `kept_share`.

    Raises:
        InputError: they are more than 1.
    """
    if random + kept > 1:
        raise InputError(f"{where}.random_share: {random:g} and kept_share {kept:g} are more than 1")
    return Fates(max(1 - random - kept, 0), random)


def corrupted(
    ids_BL: Tensor,
    hidden_BL: Tensor,
    fate_BL: Tensor,
    word_BL: Tensor,
    fates: Fates,
    special: SpecialIds,
    vocabulary: int,
) -> Tensor:
    """Texts as a model reads them (B, L). A random token is never a special one.

    Args:
        fate_BL: uniform in [0, 1): what becomes of each hidden token.
        word_BL: uniform in [0, 1): which token a random one is.
    """
    ids = torch.where(hidden_BL & (fate_BL < fates.mask), special.mask, ids_BL)
    drawn = hidden_BL & (fate_BL >= fates.mask) & (fate_BL < fates.mask + fates.random)
    return torch.where(drawn, special.words(word_BL, vocabulary), ids)
