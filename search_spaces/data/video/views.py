"""Views of stored clips: a window of frames, then one crop and one flip for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.augment import Augmentation, AugmentationOptions
from naslab.search_spaces.data.images import WholeImages
from naslab.search_spaces.data.placing import constant


class ClipAugmentation(Augmentation):
    """Random view and plain form of stored clips, uint8 (B, S, C, H, W): both float32 (B, T, C, H, W), standardised.

    The T frames are `stride` apart, as in MAE-ST and VideoMAE. In a random view the first may be any that leaves room
    for the others; in the plain form they are in the middle of the clip.
    """

    def __init__(
        self,
        options: AugmentationOptions,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        stored: int,
        frames: int,
        stride: int,
    ) -> None:
        super().__init__(options, mean, std)
        self.steps = tuple(range(0, frames * stride, stride))
        self.latest = stored - 1 - (frames - 1) * stride
        if self.latest < 0:
            raise InputError(
                f"space.options.frames: {frames} at a task.dataset.stride of {stride} span {stored - self.latest} "
                f"frames, more than the {stored} that are stored of a clip; raise task.dataset.frames or lower another"
            )

    def __call__(self, images: Tensor | WholeImages, generator: torch.Generator) -> Tensor:
        """See Augmentation."""
        assert isinstance(images, Tensor)
        first = torch.randint(self.latest + 1, (len(images), 1), device=images.device, generator=generator)
        return super().__call__(self._window(images, first), generator)

    def normalise(self, images: Tensor) -> Tensor:
        """See Augmentation."""
        middle = torch.full((len(images), 1), self.latest // 2, device=images.device)
        return super().normalise(self._window(images, middle))

    def _window(self, clips_BSCHW: Tensor, first_B1: Tensor) -> Tensor:
        device = clips_BSCHW.device
        rows = torch.arange(len(clips_BSCHW), device=device)[:, None]
        times_BT = first_B1.to(device) + constant(self.steps, device)
        return clips_BSCHW[rows, times_BT]
