"""Regenerate the embedded subset from the full Fashion-MNIST files.

Usage: python -m search_spaces.data.embedded.make [FOLDER with the four idx.gz files]

Rule: of each class the first 1,000 training and the first 200 test images, in file order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from naslab.search_spaces.data.files import EMBEDDED_FILE, FASHION_MNIST_ROOT, read_fashion_mnist


def first_of_each_class(labels: Tensor, per_class: int) -> Tensor:
    """Indices of the first `per_class` images of each class, in file order."""
    chosen = [torch.nonzero(labels == c).flatten()[:per_class] for c in labels.unique()]
    return torch.cat(chosen).sort().values


def main() -> None:
    """Write the file."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else FASHION_MNIST_ROOT
    arrays = {}
    for split, per_class in (("train", 1000), ("test", 200)):
        images, labels = read_fashion_mnist(root, split)
        chosen = first_of_each_class(labels, per_class)
        arrays[f"{split}_images"] = images[chosen].numpy()
        arrays[f"{split}_labels"] = labels[chosen].to(torch.uint8).numpy()
    np.savez_compressed(EMBEDDED_FILE, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
