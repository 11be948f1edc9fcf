"""Positions of patches: fixed sines and cosines of a plane or a line, and those of clips, learned or fixed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BASE = 10_000.0


def plane_positions(height: int, width: int, channels: int) -> Tensor:
    """MAE's positions of a grid, (height * width, channels), rows first.

    The first half of the channels tells the column, the second half the row; in each half sines come before cosines
    (He et al. 2022, published code).

    Raises:
        ValueError: the channels do not divide by 4.
    """
    if channels % 4:
        raise ValueError(f"channels: {channels} is not divisible by 4")
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    return torch.cat([_waves(axis.flatten(), channels // 2) for axis in (columns, rows)], 1).float()


def line_positions(length: int, channels: int) -> Tensor:
    """VideoMAE's positions of a sequence, (length, channels): sines and cosines take turns along the channels.

    Raises:
        ValueError: the channels are odd.
    """
    if channels % 2:
        raise ValueError(f"channels: {channels} is not even")
    waves = _waves(torch.arange(length, dtype=torch.float64), channels)
    return waves.reshape(length, 2, channels // 2).transpose(1, 2).flatten(1).float()


def _waves(places_L: Tensor, channels: int) -> Tensor:
    frequencies = BASE ** (-torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
    angles = places_L[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class ClipPositions(nn.Module):
    """Positions (L, width) of `time` x `space` tokens: learned, one per place plus one per time, or fixed along a line.

    The learned ones are MAE-ST's (Feichtenhofer et al. 2022), the fixed ones VideoMAE's (Tong et al. 2022).
    """

    _line: Tensor

    def __init__(self, learned: bool, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.learned = learned
        time, space = grid
        if learned:
            self.time_places = nn.Parameter(torch.zeros(time, width))
            self.space_places = nn.Parameter(torch.zeros(space, width))
        else:
            self.register_buffer("_line", line_positions(time * space, width), persistent=False)

    def forward(self) -> Tensor:
        """All of them, times first."""
        if not self.learned:
            return self._line
        return (self.time_places[:, None, :] + self.space_places[None, :, :]).flatten(0, 1)
