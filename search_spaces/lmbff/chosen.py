"""A configuration of the space as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SEARCHED = "searched"
"""In place of a template or of label words: those that the automatic search ranks as the rank says."""


@dataclass(frozen=True)
class Chosen:
    """What does not apply has its default."""

    method: Literal["head", "prompt"]
    shots: int
    learning_rate: float
    template: str = ""
    template_rank: int = 0
    label_words: str = ""
    words_rank: int = 0
    demonstrations: Literal["none", "random", "similar"] = "none"
    filter_rate: float = 1.0
