"""ImageSet: labelled uint8 images or clips, in memory or decoded when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.ahead import ahead
from naslab.search_spaces.data.pixels import UnreadableImage, read_rgb, trouble_with_image
from naslab.search_spaces.data.sifting import remembered, sift

RESAMPLING = Image.Resampling.BICUBIC
LONGEST = 8
"""Longest side over the shortest of what is resized whole: a strip would take gigabytes, of which a square is kept."""
THREADS = 8
"""Images that are decoded, or cut, at once."""
T = TypeVar("T")
U = TypeVar("U")


class ImageSet(ABC):
    """Images with their labels: `labels` int64 (N,); -1 where an image has none."""

    labels: Tensor
    in_memory: ClassVar[bool] = False

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

    def whole(self, indices: Tensor) -> Tensor | WholeImages:
        """The chosen images as a random crop wants them: as large as they are."""
        return self.fetch(indices)

    def batches(self, order: Tensor, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor | WholeImages]]:
        """`size` indices in `order` after the other, with their images as `whole` gives them; see `each`."""
        return zip(order.split(size), self.each(self.whole, order, size, device), strict=True)

    def each(self, function: Callable[[Tensor], T], order: Tensor, size: int, device: torch.device) -> Iterator[T]:
        """`function`, such as `whole`, of `size` indices in `order` after the other.

        What must be decoded is so while `device` is busy. Its indices are read once, since a read waits for the device.
        """
        if self.in_memory:
            return map(function, order.split(size))
        return ahead(function, order.cpu().split(size), device)

    def usable(self, order: Tensor, limit: int | None) -> Tensor:
        """The first `limit` numbers in `order` whose images can be read; None: all of them."""
        return order[:limit]

    @abstractmethod
    def take(self, indices: Tensor) -> ImageSet:
        """The subset of the chosen images, in that order."""

    @abstractmethod
    def to(self, device: torch.device) -> ImageSet:
        """The same set with what it holds in memory on `device`."""

    def head(self, number: int) -> ImageSet:
        """The first `number` images."""
        return self.take(torch.arange(min(number, len(self))))

    def labelled(self, number: int | None = None) -> ImageSet:
        """The first `number` images that have a label; None: all of them."""
        if number is None and bool((self.labels >= 0).all()):
            return self
        return self.take((self.labels >= 0).nonzero().flatten()[:number])


@dataclass(frozen=True, eq=False)
class MemoryImages(ImageSet):
    """All images in one tensor, uint8 (N, C, H, W), or clips (N, T, C, H, W)."""

    images: Tensor
    labels: Tensor
    in_memory: ClassVar[bool] = True

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
    threads: int = THREADS
    where: str = ""
    """Which images these are, for warnings."""

    def fetch(self, indices: Tensor) -> Tensor:
        """See ImageSet.fetch.

        Raises:
            InputError: a file that cannot be decoded, by name.
        """
        return torch.stack(self._each(lambda path: centre_square(self._read(path), self.side), indices))

    def whole(self, indices: Tensor) -> WholeImages:
        """See ImageSet.whole."""
        return WholeImages(self._each(self._read, indices), self.side)

    def usable(self, order: Tensor, limit: int | None) -> Tensor:
        """See ImageSet.usable; a warning names those left out."""

        with remembered([self.paths[i] for i in order.tolist()], limit, trouble_with_image) as trouble:
            found, _ = sift(
                order.tolist(), lambda i: (str(self.paths[i]), trouble(self.paths[i])), self.where, "images", limit
            )
        return torch.tensor(found)

    def _each(self, function: Callable[[Path], T], indices: Tensor) -> list[T]:
        return _threaded(function, [self.paths[i] for i in indices.tolist()], self.threads)

    def _read(self, path: Path) -> Image.Image:
        try:
            return read_rgb(path)
        except UnreadableImage as error:
            raise InputError(f"{path}: not a readable image ({error}); mend or remove the file") from None

    def take(self, indices: Tensor) -> FileImages:
        """See ImageSet.take."""
        return replace(self, paths=[self.paths[i] for i in indices.tolist()], labels=self.labels[indices])

    def to(self, device: torch.device) -> FileImages:
        """Nothing is held in memory."""
        return self


@dataclass(frozen=True, eq=False)
class WholeImages:
    """Images of any size, of which boxes are cut and resized to `side`: RGB, on the CPU."""

    images: Sequence[Image.Image]
    side: int
    device: torch.device | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def to(self, device: torch.device) -> WholeImages:
        """The same with boxes that go to `device`."""
        return replace(self, device=device)

    @property
    def sizes_B2(self) -> Tensor:
        """Height and width of each, int64."""
        return torch.tensor([(image.height, image.width) for image in self.images])

    def cut(self, boxes_B4: Tensor) -> Tensor:
        """The boxes (top, left, height, width), one an image, in pixels: uint8 (B, 3, side, side)."""
        cut = _threaded(self._one, list(zip(self.images, boxes_B4.tolist(), strict=True)), THREADS)
        return torch.stack(cut).to(self.device)

    def _one(self, chosen: tuple[Image.Image, Sequence[int]]) -> Tensor:
        image, (top, left, height, width) = chosen
        box = image.crop((left, top, left + width, top + height))
        return _tensor(box.resize((self.side, self.side), RESAMPLING))


def _threaded(function: Callable[[U], T], items: Sequence[U], threads: int) -> list[T]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def centre_square(rgb: Image.Image, side: int) -> Tensor:
    """The shorter side resized to `side`, the centre cropped: uint8 (3, side, side)."""
    longest = LONGEST * min(rgb.size)
    if max(rgb.size) > longest:
        rgb = ImageOps.fit(rgb, (min(rgb.width, longest), min(rgb.height, longest)))
    scale = side / min(rgb.size)
    width, height = (max(side, round(length * scale)) for length in rgb.size)
    left, top = (width - side) // 2, (height - side) // 2
    return _tensor(rgb.resize((width, height), RESAMPLING).crop((left, top, left + side, top + side)))


def _tensor(rgb: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(rgb).copy()).permute(2, 0, 1)
