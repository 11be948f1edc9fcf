"""Rows of token numbers as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def padded(
    rows: Sequence[Sequence[int]], fill: int, length: int | None = None, side: Literal["left", "right"] = "right"
) -> Tensor:
    """Rows (N, L), int64, filled up on one side to `length`, or to the longest.

    Raises:
        ValueError: a row is longer than `length`.
    """
    most = max(map(len, rows), default=0)
    longest = most if length is None else length
    if most > longest:
        raise ValueError(f"a row of {most} tokens is longer than {longest}")
    gaps = [[fill] * (longest - len(row)) for row in rows]
    whole = [[*row, *gap] if side == "right" else [*gap, *row] for row, gap in zip(rows, gaps, strict=True)]
    return torch.tensor(whole, dtype=torch.long).view(len(rows), longest)
