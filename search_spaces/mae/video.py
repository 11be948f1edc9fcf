"""The masked autoencoder of clips: space-time patches, tube or agnostic masks, a decoder on all or some of the masked.

Feichtenhofer et al. 2022 (MAE-ST, arXiv 2205.09113), Tong et al. 2022 (VideoMAE, arXiv 2203.12602), and the dual
masking of Wang et al. 2023 (VideoMAE V2, arXiv 2303.16727), all on the code of the image model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from naslab.search_spaces.common.modules.positions import ClipPositions
from naslab.search_spaces.common.modules.vit import initialise
from naslab.search_spaces.common.objectives.tube_loss import Over, tube_loss
from naslab.search_spaces.mae.model import Autoencoder, Design


@dataclass(frozen=True)
class ClipDesign:
    """What the video form adds to a Design, each under the name of its option."""

    frames: int
    tubelet: int
    positions: Literal["separable", "sinusoid"]
    """Learned, a place plus a time (MAE-ST), or fixed along the sequence (VideoMAE)."""
    class_token: bool
    predicted_frames: Literal["one", "all"]
    """Frames of each tube that are predicted: one, evenly spread over the clip (MAE-ST), or all (VideoMAE)."""
    normalised_by: Over

    @property
    def target_frames(self) -> tuple[int, ...]:
        """Frames that are predicted, in order."""
        if self.predicted_frames == "all":
            return tuple(range(self.frames))
        tubes = self.frames // self.tubelet
        return tuple(i * (self.frames - 1) // max(tubes - 1, 1) for i in range(tubes))


class VideoMaskedAutoencoder(Autoencoder):
    """Tubes of `tubelet` frames x patch x patch, in the order time, row, column."""

    pixel_mean: Tensor
    pixel_std: Tensor
    target_frames: Tensor

    def __init__(self, design: Design, clip: ClipDesign) -> None:
        frames_predicted = clip.tubelet if clip.predicted_frames == "all" else 1
        super().__init__(design, design.patch_pixels * frames_predicted, clip.class_token)
        self.clip = clip
        self.frames_predicted = frames_predicted
        tube = (clip.tubelet, design.patch_size, design.patch_size)
        width, narrow = design.encoder.width, design.decoder.width
        self.tube_embed = nn.Conv3d(design.in_channels, width, tube, tube)
        time, rows, columns = design.masking.grid
        learned = clip.positions == "separable"
        self.encoder_places = ClipPositions(learned, (time, rows * columns), width)
        self.decoder_places = ClipPositions(learned, (time, rows * columns), narrow)
        if clip.class_token:
            self.decoder_class_token = nn.Parameter(torch.zeros(narrow))
        if clip.class_token and learned:
            self.class_places = nn.Parameter(torch.zeros(width))
            self.decoder_class_places = nn.Parameter(torch.zeros(narrow))
        # Not of the state; a list would be sent to the device at each step.
        self.register_buffer("target_frames", torch.tensor(clip.target_frames), persistent=False)
        if self.plain_pixels:
            self.register_buffer("pixel_mean", torch.zeros(design.in_channels))
            self.register_buffer("pixel_std", torch.ones(design.in_channels))
        initialise(self)

    @property
    def plain_pixels(self) -> bool:
        """VideoMAE's target without normalisation: pixels in [0, 1], as they were before they were standardised."""
        return self.design.target == "pixel" and self.clip.normalised_by == "channel"

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(T, C, H, W)."""
        return self.clip.frames, *self.design.frame_shape

    def class_tokens(self) -> tuple[Tensor | None, Tensor | None]:
        """The decoder has a class token of its own; each has a learned position where the tokens' are learned."""
        if self.class_token is None:
            return None, None
        if self.clip.positions == "sinusoid":
            return self.class_token, self.decoder_class_token
        return self.class_token + self.class_places, self.decoder_class_token + self.decoder_class_places

    def standardised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Channels' means and deviations in [0, 1], kept in the state where the target needs them."""
        if self.plain_pixels:
            self.pixel_mean.copy_(torch.tensor(mean))
            self.pixel_std.copy_(torch.tensor(std))

    def places(self) -> tuple[Tensor, Tensor]:
        """Learned or fixed."""
        return self.encoder_places(), self.decoder_places()

    def embed(self, samples: Tensor) -> Tensor:
        """Tubes of clips (B, T, C, H, W) through the embedding."""
        tokens: Tensor = self.tube_embed(samples.transpose(1, 2)).flatten(2).transpose(1, 2)
        return tokens

    def reconstruction_loss(self, predicted_BMP: Tensor, samples: Tensor, decoded_BM: Tensor) -> Tensor:
        """On the target frames; pixels of a prediction are in the order row, column, frame, channel."""
        targets = samples[:, self.target_frames]
        if self.plain_pixels:
            targets = targets * self.pixel_std[:, None, None] + self.pixel_mean[:, None, None]
        over = self.clip.normalised_by if self.design.target == "normalised_pixel" else None
        return tube_loss(predicted_BMP, targets, decoded_BM, self.design.patch_size, self.frames_predicted, over)
