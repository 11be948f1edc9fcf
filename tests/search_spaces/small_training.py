"""A small model, its batches and its loss, to train under policies."""

import torch
from torch import nn


class Images(nn.Module):
    """Convolutions with batch statistics, in two blocks, and a classifier."""

    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.blocks(images).mean((2, 3)))


def batches(model, optimiser, epoch, steps=4):
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(steps):
        yield torch.randn(8, 4, 6, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def loss(model, batch):
    images, labels = batch
    return nn.functional.cross_entropy(model(images).float(), labels)


def made(seed=0, optimiser=torch.optim.AdamW):
    torch.manual_seed(seed)
    model = Images()
    return model, optimiser(model.parameters(), lr=0.01)


def equal_states(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
