"""Where each data set lies on disk and how it is read. Nothing is downloaded: missing data is said so, by path."""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.folders import Labelled, class_folders
from naslab.search_spaces.data.images import FileImages, ImageSet, MemoryImages
from naslab.search_spaces.data.pixels import IMAGE_SUFFIXES

EMBEDDED_FILE = Path(__file__).parent / "embedded" / "fashion_mnist_12k.npz"
FASHION_MNIST_ROOT = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Read:
    """What a data set's files hold; `validation` is None where no images are set apart for it."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    validation: ImageSet | None = None


def default_root() -> Path:
    """Where CIFAR and STL-10 are looked for: $NASLAB_DATA, else ~/.cache/naslab/data."""
    return Path(os.environ.get("NASLAB_DATA", Path.home() / ".cache" / "naslab" / "data"))


def read_embedded() -> Read:
    """The subset of Fashion-MNIST that ships with the project."""
    try:
        with np.load(EMBEDDED_FILE) as arrays:
            parts = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{EMBEDDED_FILE}: the embedded data is damaged ({error}); install naslab again") from None
    train = MemoryImages(parts["train_images"].unsqueeze(1), parts["train_labels"].long())
    test = MemoryImages(parts["test_images"].unsqueeze(1), parts["test_labels"].long())
    return Read(train, test, FASHION_MNIST_CLASSES)


def read_fashion_mnist(root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 28, 28) uint8 and labels (N,) int64 of `train` or `test`, from idx files, gzipped or not."""
    prefix = "train" if split == "train" else "t10k"
    images = _read_idx(_find_idx(root, f"{prefix}-images-idx3-ubyte"), 3)
    labels = _read_idx(_find_idx(root, f"{prefix}-labels-idx1-ubyte"), 1).long()
    if len(images) != len(labels):
        raise InputError(f"{root}: {len(images)} {split} images but {len(labels)} labels; fetch the files again")
    return images, labels


def _find_idx(root: Path, name: str) -> Path:
    for path in (root / f"{name}.gz", root / name):
        if path.exists():
            return path
    raise InputError(
        f"{root / name}.gz: no such file; Fashion-MNIST comes with Debian's package dataset-fashion-mnist, or name "
        "the folder of its four idx files in task.dataset.root"
    )


def _read_idx(path: Path, dimensions: int) -> Tensor:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
        if data[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError("not an idx file of bytes")
        array = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: damaged ({error}); fetch the file again") from None
    return torch.from_numpy(array.copy())


def fashion_mnist(root: Path | None) -> Read:
    """The whole of Fashion-MNIST: 60,000 and 10,000 images."""
    folder = root or FASHION_MNIST_ROOT
    (train, train_labels), (test, test_labels) = (read_fashion_mnist(folder, split) for split in ("train", "test"))
    return Read(
        MemoryImages(train.unsqueeze(1), train_labels),
        MemoryImages(test.unsqueeze(1), test_labels),
        FASHION_MNIST_CLASSES,
    )


def cifar(name: str, root: Path | None) -> Read:
    """CIFAR-10 or CIFAR-100 in the original python version, read by torchvision, which checks the files' sums."""
    folder = root or default_root()
    kind = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name]
    train, test = (_torchvision(kind, name, folder, train=train) for train in (True, False))

    def images(data: Any) -> MemoryImages:
        return MemoryImages(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets))

    return Read(images(train), images(test), tuple(train.classes))


def stl10(root: Path | None, unlabeled: bool) -> Read:
    """STL-10; with `unlabeled` its 100,000 images without label (label -1) join the training images."""
    folder = root or default_root()
    splits = ["train+unlabeled" if unlabeled else "train", "test"]
    train, test = (_torchvision("STL10", "stl10", folder, split=split) for split in splits)

    def images(data: Any) -> MemoryImages:
        return MemoryImages(torch.from_numpy(np.ascontiguousarray(data.data)), torch.from_numpy(data.labels).long())

    return Read(images(train), images(test), tuple(train.classes))


def _torchvision(kind: str, name: str, root: Path, **arguments: Any) -> Any:
    from torchvision import datasets  # takes a second to import

    try:
        return getattr(datasets, kind)(root=str(root), download=False, **arguments)
    except RuntimeError:
        raise InputError(
            f"{root}: {name} is not there or is damaged; unpack its original archive there, or name its folder in "
            "task.dataset.root (or $NASLAB_DATA)"
        ) from None


def image_folder(root: Path | None, side: int, seed: int) -> Read:
    """Class folders of images, decoded when fetched; see `class_folders`."""
    found = class_folders(root, "images", IMAGE_SUFFIXES, seed)

    def images(split: str, part: Labelled) -> FileImages:
        return FileImages(part.paths, part.labels, side, where=f"folder, {split} ({root})")

    validation = None if found.validation is None else images("validation", found.validation)
    return Read(images("train", found.train), images("test", found.test), found.classes, validation)
