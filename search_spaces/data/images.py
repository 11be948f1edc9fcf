"""ImageSet: labelled uint8 images or clips, in memory or decoded when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from naslab.efficiency.errors import InputError


class ImageSet(ABC):
    """Images with their labels: `labels` int64 (N,); -1 where an image has none."""

    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def frames(self) -> int:
        """1 of images (C, H, W); T of clips (T, C, H, W)."""
        return 1

    @abstractmethod
    def fetch(self, indices: Tensor) -> Tensor:
        """The chosen images, uint8 (B, C, H, W), or clips (B, T, C, H, W)."""

    @abstractmethod
    def take(self, indices: Tensor) -> ImageSet:
        """The subset of the chosen images, in that order."""

    @abstractmethod
    def to(self, device: torch.device) -> ImageSet:
        """The same set with what it holds in memory on `device`."""

    def head(self, number: int) -> ImageSet:
        """The first `number` images."""
        return self.take(torch.arange(min(number, len(self))))


@dataclass(frozen=True, eq=False)
class MemoryImages(ImageSet):
    """All images in one tensor, uint8 (N, C, H, W), or clips (N, T, C, H, W)."""

    images: Tensor
    labels: Tensor

    @property
    def frames(self) -> int:
        """See ImageSet.frames."""
        return 1 if self.images.ndim == 4 else self.images.shape[1]

    def fetch(self, indices: Tensor) -> Tensor:
        """See ImageSet.fetch."""
        return self.images[indices.to(self.images.device)]

    def take(self, indices: Tensor) -> MemoryImages:
        """See ImageSet.take."""
        return MemoryImages(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> MemoryImages:
        """See ImageSet.to."""
        return MemoryImages(self.images.to(device), self.labels)


@dataclass(frozen=True, eq=False)
class FileImages(ImageSet):
    """Image files, decoded in threads when fetched: shorter side resized to `side`, centre cropped, RGB."""

    paths: Sequence[Path]
    labels: Tensor
    side: int
    threads: int = 8

    def fetch(self, indices: Tensor) -> Tensor:
        """See ImageSet.fetch.

        Raises:
            InputError: a file that cannot be decoded, by name.
        """
        chosen = [self.paths[i] for i in indices.tolist()]
        with ThreadPoolExecutor(self.threads) as pool:
            return torch.stack(list(pool.map(self._decode, chosen)))

    def _decode(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"{path}: not a readable image ({error}); mend or remove the file") from None
        return centre_square(rgb, self.side)

    def take(self, indices: Tensor) -> FileImages:
        """See ImageSet.take."""
        return FileImages([self.paths[i] for i in indices.tolist()], self.labels[indices], self.side, self.threads)

    def to(self, device: torch.device) -> FileImages:
        """Nothing is held in memory."""
        return self


def centre_square(rgb: Image.Image, side: int) -> Tensor:
    """The shorter side resized to `side`, the centre cropped: uint8 (3, side, side)."""
    scale = side / min(rgb.size)
    width, height = (max(side, round(length * scale)) for length in rgb.size)
    left, top = (width - side) // 2, (height - side) // 2
    square = rgb.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)
