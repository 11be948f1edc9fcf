"""Your own table: which network predicts the last column of a CSV file best for its hours?"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import naslab

TABLE = Path("table.csv")
"""A header, then rows of numbers; the last column is what is to be predicted. Written here if it is not there."""


def load(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised features (N, columns - 1) and target (N,)."""
    with path.open(newline="") as file:
        rows = torch.tensor([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
    rows = (rows - rows.mean(0)) / rows.std(0)
    return rows[:, :-1], rows[:, -1]


def train(
    width: int = 16, depth: int = 1, lr: float = 0.01, epochs: int = 4, table: str = str(TABLE)
) -> Iterator[dict[str, float]]:
    """Fit a network to the first rows and yield the explained variance, in percent, of the others."""
    x, y = load(Path(table))
    split = {"train": slice(0, 300), "validation": slice(300, 400), "test": slice(400, None)}
    sizes = [x.shape[1], *[width] * depth]
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1), nn.Flatten(0))
    optimiser = torch.optim.Adam(model.parameters(), lr)
    for _ in range(epochs):
        for batch in torch.arange(300)[torch.randperm(300)].split(20):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            explained = {
                name: float(100 * (1 - (model(x[rows]) - y[rows]).var() / y[rows].var()))
                for name, rows in split.items()
            }
        yield {"explained": explained["validation"], "test_explained": explained["test"]}


def write_table(path: Path) -> None:
    """A made-up table: a curved function of three columns, and noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, generator=generator)
    y = x[:, 0] * x[:, 1] + x[:, 2].sin() + 0.1 * torch.randn(500, generator=generator)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "target"], *torch.cat([x, y[:, None]], 1).tolist()])


def study(trials: int = 8) -> naslab.Study:
    """Width, depth and learning rate, by TPE; what falls behind is stopped."""
    space = {
        "width": naslab.Integer(4, 64, log=True),
        "depth": naslab.Integer(1, 3),
        "lr": naslab.Float(1e-3, 0.1, log=True),
    }
    return naslab.search(
        train, space, metric="explained", trials=trials, pruner="median", name="own_csv", seeds=[0, 1],
        random_architectures=2,
    )  # fmt: skip


if __name__ == "__main__":
    if not TABLE.exists():
        write_table(TABLE)
    print(naslab.run(study(), workers=2))
