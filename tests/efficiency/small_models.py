"""Small models, and what a layer of them costs by hand."""

import json
from pathlib import Path

import jsonschema
import torch
from torch import nn

from naslab.efficiency import profile

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "profile.json").read_text())
QUICK = {"min_seconds": 0.0, "max_seconds": 0.001}
LINEAR = 2 * 4 * 16 * 16
"""FLOPs of the layer of the models below."""


class Fn(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *inputs):
        return self.function(*self.layers, *inputs)


def layer():
    return nn.Linear(16, 16)


def batch():
    return torch.randn(4, 16)


@torch.library.custom_op("naslab_hard::summed_product", mutates_args=())
def summed_product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x @ w).sum().reshape(1)


def profiled(model, inputs, **options):
    found = profile(model, inputs, **QUICK, **options)
    jsonschema.validate(json.loads(json.dumps(found.to_dict(), allow_nan=False)), SCHEMA)
    return found
