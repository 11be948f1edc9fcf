"""Targets: models with and without an input of their own, and what is none."""

import torch
from torch import nn


def bare():
    return nn.Linear(6, 3)


def complete():
    return nn.Linear(6, 3), torch.ones(4, 6)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.a(x) + self.b(x)


def double():
    return Twice(), torch.ones(4, 6)


def frozen():
    return nn.Linear(6, 3).requires_grad_(False), torch.ones(4, 6)


def wrong():
    return "a string"
