"""From the options in a study file to three disjoint sets of images: train, validation, test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data import files
from naslab.search_spaces.data.images import ImageSet
from naslab.search_spaces.options import Options, UserPath
from naslab.search_spaces.parameters import When
from naslab.search_spaces.splits import Splits

STATISTICS_SAMPLE = 2000
"""Images from which channel means and deviations are taken."""


class DatasetOptions(Options):
    """Which images. `validation` is held out of the training images; a search looks at it instead of the test set."""

    name: Literal["embedded", "fashion_mnist", "cifar10", "cifar100", "stl10", "folder"] = "embedded"
    root: Annotated[UserPath | None, When("name", ("fashion_mnist", "cifar10", "cifar100", "stl10", "folder"))] = None
    """Where the files are; None: docs/image-data.md says where each data set is looked for."""
    train: int | None = Field(None, gt=0)
    """How many training images, as balanced over the classes as they come; None: all that validation leaves."""
    validation: int = Field(1000, gt=0)
    """How many are held out of the training images, or used at most of those set apart in a folder."""
    test: int | None = Field(None, gt=0)
    image_size: Annotated[int, When("name", ("folder",))] = Field(224, ge=8)
    """Side of decoded images."""
    unlabeled: Annotated[bool, When("name", ("stl10",))] = False
    """Train on the unlabelled images too."""
    seed: int = Field(0, ge=0)
    """Decides which images are chosen, and their order."""


@dataclass(frozen=True)
class ImageData(Splits[ImageSet]):
    """A data set ready for use, of images or clips.

    Attributes:
        mean, std: per channel, of the training images scaled to [0, 1].
        sided: mirroring an image would make its label wrong.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sided: bool = False


def load_dataset(options: DatasetOptions) -> ImageData:
    """Read and split the data set. Files that cannot be read are left out, with a warning.

    Raises:
        InputError: missing or damaged files, or more images asked for than there are.
    """
    read = _read(options)
    generator = torch.Generator().manual_seed(options.seed)
    held_out = options.validation if read.validation is None else 0
    order = _usable(read.train, generator, held_out + options.train if options.train else None)
    _check_sizes(options, read, order, held_out)
    rest = order[held_out:][: options.train]
    rest = rest[torch.randperm(len(rest), generator=generator)]
    tested = _usable(read.test, generator, options.test)
    if options.test is not None and options.test > len(tested):
        raise InputError(f"task.dataset.test: {options.name} has {len(tested)} test images, not {options.test}")
    chosen = read.train.take(rest)
    mean, std = channel_statistics(chosen, STATISTICS_SAMPLE)
    sample = chosen.fetch(torch.tensor([0]))
    return ImageData(
        name=options.name,
        classes=read.classes,
        channels=sample.shape[1],
        image_size=sample.shape[2],
        train=chosen,
        validation=_validation(options, read, order, generator),
        test=read.test.take(tested),
        mean=mean,
        std=std,
    )


def _usable(images: ImageSet, generator: torch.Generator, limit: int | None) -> Tensor:
    return images.usable(balanced_order(images.labels, generator), limit)


def _validation(options: DatasetOptions, read: files.Read, order: Tensor, generator: torch.Generator) -> ImageSet:
    """Images set apart for validation, up to as many as asked for, else the first of the training images' order."""
    if read.validation is None:
        return read.train.take(order[: options.validation])
    return read.validation.take(_usable(read.validation, generator, options.validation))


def _read(options: DatasetOptions) -> files.Read:
    match options.name:
        case "embedded":
            return files.read_embedded()
        case "fashion_mnist":
            return files.fashion_mnist(options.root)
        case "cifar10" | "cifar100":
            return files.cifar(options.name, options.root)
        case "stl10":
            return files.stl10(options.root, options.unlabeled)
        case "folder":
            return files.image_folder(options.root, options.image_size, options.seed)


def _check_sizes(options: DatasetOptions, read: files.Read, order: Tensor, held_out: int) -> None:
    labelled = int((read.train.labels[order] >= 0).sum())
    if held_out + (options.train or 1) > len(order) or held_out > labelled:
        raise InputError(
            f"task.dataset: {options.name} has {len(order)} training images; {held_out} for validation and "
            f"{options.train or 'some'} for training are more than that"
        )


class _Samples(Protocol):
    """A training part."""

    @property
    def frames(self) -> int:
        """Of a sample; 1 of an image."""

    def __len__(self) -> int:
        """Samples."""


class _Data(Protocol):
    """Images or clips, with labels or texts."""

    @property
    def name(self) -> str:
        """Of the data set."""

    @property
    def channels(self) -> int:
        """Of a frame."""

    @property
    def image_size(self) -> int:
        """Side of a frame."""

    @property
    def train(self) -> _Samples:
        """The training part."""


def check_fit(data: _Data, in_channels: int, image_size: int, batch_size: int) -> None:
    """Raises:
    InputError: the space takes other images, or a batch has more of them than there are.
    """
    if (data.channels, data.image_size) != (in_channels, image_size):
        raise InputError(
            f"task.dataset: {data.name} has {data.channels}x{data.image_size}x{data.image_size} "
            f"{'images' if data.train.frames == 1 else 'frames'}, the space takes "
            f"{in_channels}x{image_size}x{image_size}; set space.options.in_channels and image_size"
        )
    if batch_size > len(data.train):
        kind = "images" if data.train.frames == 1 else "clips"
        raise InputError(f"task.batch_size: {batch_size} is more than the {len(data.train)} training {kind}")


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Indices in which the first n are, for every n, as evenly spread over the classes as the set allows.

    Images without label (-1) come last.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    rank_in_class = torch.empty(len(labels), dtype=torch.long)
    for c in labels.unique():
        members = shuffled[labels[shuffled] == c]
        rank_in_class[members] = torch.arange(len(members)) + (len(labels) if c < 0 else 0)
    return shuffled[torch.argsort(rank_in_class[shuffled], stable=True)]


def few_labels(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Indices of `per_class` labelled images of each class (fewer where a class has fewer)."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    classes = [c for c in labels.unique().tolist() if c >= 0]
    return torch.cat([shuffled[labels[shuffled] == c][:per_class] for c in classes])


def channel_statistics(images: ImageSet, number: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over the first `number` images, scaled to [0, 1]."""
    sample = images.head(number)
    pixels = sample.fetch(torch.arange(len(sample))).float().movedim(-3, 0).flatten(1) / 255
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp(min=1e-3).tolist())
