"""The loss of predicted tubes, space-time patches of clips: MAE-ST's by patch, VideoMAE's by colour channel."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from naslab.kernels import patch_loss
from naslab.kernels.patch_loss import patches
from naslab.search_spaces.common.objectives.float32 import in_float32

CHANNEL_EPSILON = 1e-6
"""Added to the deviation, not to the variance, where each colour channel is normalised by itself (VideoMAE)."""
Over: TypeAlias = Literal["patch", "channel"]
"""Over what a normalised target has mean 0 and deviation 1: all values of a patch, or each colour by itself."""


@in_float32
def tube_loss(
    predicted_BMP: Tensor, clips: Tensor, tubes_BM: Tensor, patch_size: int, tubelet: int, normalised_over: Over | None
) -> Tensor:
    """Mean squared error on the chosen tubes of clips (B, T, C, H, W).

    Args:
        predicted_BMP: pixels of each tube in the order row, column, frame, channel.
        tubelet: frames of a tube.
        normalised_over: None: the target is the pixels as they are.
    """
    tall = _stacked(clips, tubelet)
    if normalised_over != "channel":
        return patch_loss(predicted_BMP, tall, tubes_BM, patch_size, normalised_over == "patch")
    rows = torch.arange(len(tall), device=tall.device)[:, None]
    chosen = patches(tall, patch_size)[rows, tubes_BM].unflatten(2, (-1, clips.shape[2]))
    deviation, mean = torch.std_mean(chosen, 2, keepdim=True)
    targets = (chosen - mean) / (deviation + CHANNEL_EPSILON)
    loss: Tensor = (predicted_BMP - targets.flatten(2)).square().mean()
    return loss


def _stacked(clips: Tensor, tubelet: int) -> Tensor:
    """Clips (B, T, C, H, W) as one tall image each, (B, tubelet * C, T / tubelet * H, W): its patches are the tubes."""
    b, t, c, h, w = clips.shape
    split = clips.reshape(b, t // tubelet, tubelet, c, h, w)
    return split.permute(0, 2, 3, 1, 4, 5).reshape(b, tubelet * c, t // tubelet * h, w)
