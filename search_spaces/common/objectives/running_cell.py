"""VideoMAE V2's decoder mask (Wang et al. 2023, arXiv 2303.16727): cells of four places that take turns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from naslab.kernels import TokenMask
from naslab.search_spaces.common.objectives.masked_patches import Masking


@dataclass(frozen=True)
class RunningCell:
    """Which tokens a decoder rebuilds when it is to rebuild a `share` of all.

    Each 2 x 2 cell of a frame has its places in raster order in a ring; the last of the ring are rebuilt, half of
    them at a share of .5, and the ring turns by one place every time step. The phase is random for each sample.
    """

    share: float
    masking: Masking

    @property
    def predicted(self) -> int:
        """Masked tokens that are rebuilt; at the paper's size all 704 of the cells that a tube mask hides."""
        return max(1, int(self.share * (self.masking.length - self.masking.visible)))

    @property
    def spare(self) -> int:
        """Mask tokens at visible places: the published decoder has them at every place of the cells."""
        return max(0, min(int(self.share * self.masking.length) - self.predicted, self.masking.visible))

    def draw(self, mask: TokenMask, noise_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the predicted masked tokens (B, predicted), and those of the spare mask tokens (B, spare).

        Those of the cells come first, and where these are too few, others at random.
        """
        fractions = noise_BL - noise_BL.floor()
        order = 3 - ring(self.masking.grid, phases(fractions)).to(noise_BL.dtype) + fractions
        hidden_BL = mask.rank_BL >= mask.visible_BK.shape[1]
        far = torch.full_like(order, torch.inf)
        predicted = torch.where(hidden_BL, order, far).topk(self.predicted, 1, largest=False).indices
        spare = torch.where(hidden_BL, far, order).topk(self.spare, 1, largest=False).indices
        return predicted, spare


def ring(grid: tuple[int, int, int], phase_B: Tensor) -> Tensor:
    """Where in the ring of its 2 x 2 cell each token stands, 0 to 3, (B, L), for cells of the given phases."""
    time, row, column = (torch.arange(n, device=phase_B.device) for n in grid)
    place = (2 * (row % 2)[:, None] + (column % 2)[None, :])[None] + time[:, None, None] + 1
    return (place.flatten()[None] + phase_B[:, None]) % 4


def phases(fractions_BL: Tensor) -> Tensor:
    """One of four phases a sample, from digits of the last number that no ranking looks at."""
    return (fractions_BL[:, -1] * 4096).frac().mul(4).floor().long()
