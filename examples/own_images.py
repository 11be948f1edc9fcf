"""Your own images, a folder for each class: how wide, and at which size, should a small network see them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import naslab

FOLDER = Path("images")
"""`images/CLASS/anything.png`. A made-up one is written here if it is not there."""


def load(folder: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All images (N, 3, size, size) between 0 and 1, in an order that mixes the classes, and their labels (N,)."""
    transform = v2.Compose([v2.ToImage(), v2.Resize((size, size)), v2.ToDtype(torch.float32, scale=True)])
    images, labels = zip(*ImageFolder(folder, transform), strict=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.stack(images)[order], torch.tensor(labels)[order]


def train(
    width: int = 8, size: int = 16, lr: float = 0.01, epochs: int = 3, folder: str = str(FOLDER)
) -> Iterator[dict[str, float]]:
    """Train on three fifths of the images; yield the accuracy on the next fifth and the last."""
    x, y = load(folder, size)
    part = len(y) // 5
    split = {"validation": slice(3 * part, 4 * part), "test": slice(4 * part, None)}
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, int(y.max()) + 1),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr)
    for _ in range(epochs):
        for batch in torch.randperm(3 * part).split(16):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            right = {name: float(100 * (model(x[s]).argmax(1) == y[s]).float().mean()) for name, s in split.items()}
        yield {"accuracy": right["validation"], "test_accuracy": right["test"]}


def write_images(folder: Path, each: int = 50) -> None:
    """Stripes along, across and none."""
    generator = torch.Generator().manual_seed(0)
    for label, pattern in {"across": (8, 1), "along": (1, 8), "noise": (8, 8)}.items():
        (folder / label).mkdir(parents=True)
        for i in range(each):
            coarse = torch.rand(pattern, generator=generator).repeat_interleave(32 // pattern[0], 0)
            pixels = coarse.repeat_interleave(32 // pattern[1], 1).mul(255).byte().numpy()
            Image.fromarray(pixels).convert("RGB").save(folder / label / f"{i}.png")


def study(trials: int = 6) -> naslab.Study:
    """Width and size of the images on a lattice."""
    return naslab.search(
        train, {"width": [4, 8, 16], "size": [16, 32]}, metric="accuracy", trials=trials, sampler="grid",
        name="own_images", seeds=[0, 1], random_architectures=2,
    )  # fmt: skip


if __name__ == "__main__":
    if not FOLDER.exists():
        write_images(FOLDER)
    print(naslab.run(study(), workers=2))
