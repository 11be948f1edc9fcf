"""A function and twenty lines: how wide, and how fast to train, a small classifier of real images should be."""

import torch
from torch import nn

import naslab
from naslab.search_spaces.data import DatasetOptions, load_dataset


def train(lr=0.1, width=16, epochs=3):
    """Train a two-layer network and yield its accuracy on both splits after each epoch."""
    data = load_dataset(DatasetOptions(train=500, validation=300, test=300))
    x, y = {}, {}
    for split in ("train", "validation", "test"):
        part = getattr(data, split)
        x[split] = part.fetch(torch.arange(len(part))).flatten(1).float() / 255
        y[split] = part.labels
    model = nn.Sequential(nn.Linear(x["train"].shape[1], width), nn.ReLU(), nn.Linear(width, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(y["train"])).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x["train"][batch]), y["train"][batch]).backward()
            optimiser.step()
        with torch.no_grad():
            right = {s: 100 * (model(x[s]).argmax(1) == y[s]).float().mean() for s in ("validation", "test")}
        yield {"accuracy": right["validation"], "test_accuracy": right["test"]}


if __name__ == "__main__":
    space = {"lr": naslab.Float(1e-3, 1, log=True), "width": [8, 16, 32, 64]}
    study = naslab.search(train, space, metric="accuracy", trials=6, seeds=[0, 1], random_architectures=2)
    print(naslab.run(study, workers=2))
