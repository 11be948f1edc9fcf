"""Which tokens are masked: random, in blocks, on a grid, through time in tubes or anywhere in a clip.

Every kind turns the same uniform noise, one number per token, into a score per token; the tokens of lowest score stay.
So a mask is a function of its noise alone, has the same number of tokens in every sample, and needs one ranking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from naslab.kernels import TokenMask, gather_visible, token_mask
from naslab.search_spaces.common.counts import roundest, visible_tokens

Kind: TypeAlias = Literal["random", "block", "grid", "agnostic", "tube"]

GRID_RATIO = 0.75
SMALLEST_BLOCK = 16 / 196
"""Share of the image that the smallest block covers: 16 patches of 14 x 14 (BEiT, Bao et al. 2022)."""
WIDEST_BLOCK = 1 / 0.3
"""Width over height of the widest block; the narrowest has the inverse."""
BLOCKS = 16
"""Blocks drawn at most; what they leave uncovered is masked at random."""


@dataclass(frozen=True)
class Masking:
    """A kind of mask over a (time, rows, columns) grid of tokens; images have one time step."""

    kind: Kind
    ratio: float
    grid: tuple[int, int, int]

    @property
    def length(self) -> int:
        """Tokens L of a sample."""
        return math.prod(self.grid)

    @property
    def visible(self) -> int:
        """Tokens that stay: int(L (1 - ratio)) as in MAE; of a tube mask rows * columns - int(rows * columns * ratio)
        in each time step, as in VideoMAE; of a grid one in four.
        """
        time, rows, columns = self.grid
        if self.kind == "tube":
            return time * (rows * columns - int(self.ratio * rows * columns))
        if self.kind == "grid":
            return time * (rows // 2) * ((columns + 1) // 2)
        return visible_tokens(self.length, self.ratio)

    def canonical_ratio(self) -> float:
        """The roundest ratio of the masks with as many visible tokens: the count alone decides the function."""
        if self.kind == "grid":
            return self.ratio
        unit = self.length // self.grid[0] if self.kind == "tube" else self.length
        exact = 1 - self.visible / self.length
        return roundest(self.ratio, lambda ratio: replace(self, ratio=ratio).visible, exact, 1 / unit)

    def draw(self, noise_BL: Tensor) -> TokenMask:
        """The mask that the noise, uniform in [0, 1), stands for."""
        return token_mask(self._scores(noise_BL), self.visible)

    def _scores(self, noise_BL: Tensor) -> Tensor:
        time, rows, columns = self.grid
        match self.kind:
            case "random" | "agnostic":
                return noise_BL
            case "tube":
                return noise_BL[:, : rows * columns].repeat(1, time)
            case "grid":
                return (~lattice(rows, columns, noise_BL.device)).to(noise_BL.dtype).repeat(len(noise_BL), time)
            case "block":
                return block_scores(noise_BL, rows, columns, rows * columns - self.visible)


def gather_masked(tokens_BLD: Tensor, mask: TokenMask) -> Tensor:
    """The masked tokens of all, (B, M, D), in the order of `mask.masked_BM`."""
    masked, visible = mask.masked_BM.shape[1], mask.visible_BK.shape[1]
    rank_BL = torch.where(mask.rank_BL < visible, mask.rank_BL + masked, mask.rank_BL - visible)
    return gather_visible(tokens_BLD, TokenMask(mask.masked_BM, mask.visible_BK, rank_BL))


def lattice(rows: int, columns: int, device: torch.device) -> Tensor:
    """Which one of four neighbours stays, boolean (rows * columns,): every other row and column.

    Odd rows and even columns, so that a grid of odd sides keeps a quarter of its patches, too.
    """
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    return ((row % 2 == 1)[:, None] & (column % 2 == 0)[None, :]).flatten()


def block_scores(noise_BL: Tensor, rows: int, columns: int, masked: int) -> Tensor:
    """Scores of a block-wise mask: minus the number of the first block that covers a token; lower where none does.

    BEiT's algorithm: area uniform between the smallest block and what is left to mask, aspect ratio log-uniform,
    place uniform, until enough is covered. The last block is cut so that exactly `masked` tokens go, which batches
    need and BEiT's data loader does not (inferred: MAE does not say how it did this).
    """
    fractions = noise_BL - noise_BL.floor()
    smallest = max(1.0, SMALLEST_BLOCK * rows * columns)
    row = torch.arange(rows, device=noise_BL.device)[None, :, None]
    column = torch.arange(columns, device=noise_BL.device)[None, None, :]
    blocks = min(BLOCKS, noise_BL.shape[1] // 4)
    scores_BL = -(blocks + 1) - fractions
    covered_BL = torch.zeros_like(noise_BL, dtype=torch.bool)
    for number in range(blocks):
        size, aspect, top, left = (fractions[:, 4 * number + i, None, None] for i in range(4))
        remaining = (masked - covered_BL.sum(1)).clamp(min=0)[:, None, None]
        area = smallest + size * (remaining - smallest).clamp(min=0)
        shape = (math.log(WIDEST_BLOCK) * (2 * aspect - 1)).exp()
        height = (area / shape).sqrt().round().clamp(1, rows)
        width = (area * shape).sqrt().round().clamp(1, columns)
        first_row, first_column = (top * (rows - height + 1)).floor(), (left * (columns - width + 1)).floor()
        inside = (row >= first_row) & (row < first_row + height)
        inside = inside & (column >= first_column) & (column < first_column + width)
        new_BL = inside.flatten(1) & ~covered_BL
        scores_BL = torch.where(new_BL, torch.full_like(scores_BL, -number), scores_BL)
        covered_BL = covered_BL | new_BL
    return scores_BL
