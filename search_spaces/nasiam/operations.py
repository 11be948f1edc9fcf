"""The seven candidate operations of a NASiam layer, and what each becomes when the layer changes width.

Source: Heuillet et al. 2023 and its published code. Layers map (batch, width_in) to (batch, width_out); pooling
runs along the feature axis. Where a layer widens, the linears lose normalisation and activation, which the
authors found to keep the predictor's output stable.
"""

from __future__ import annotations

import itertools
from typing import get_args

import torch
from torch import Tensor, nn

from naslab.kernels import ACTIVATIONS, feature_pool
from naslab.kernels.feature_pool import Pool

POOLINGS: tuple[Pool, ...] = get_args(Pool)
OPERATIONS = (*POOLINGS, "identity", *ACTIVATIONS)
"""Candidate names in the order of the architecture parameters' columns, as in the published code."""

PARAMETER_FREE = frozenset((*POOLINGS, "identity"))
"""What adds no linear where the width stays: a cell made of these alone has collapsed."""


def as_loops_take_it(x: Tensor) -> Tensor:
    """In float32 on a CPU, whose fused loops take no other."""
    return x.float() if x.device.type == "cpu" and x.dtype == torch.bfloat16 else x


class Activation(nn.Module):
    """An activation by its genotype name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x_BD: Tensor) -> Tensor:
        """Elementwise."""
        return ACTIVATIONS[self.name](x_BD)

    def extra_repr(self) -> str:
        """Name of the activation."""
        return self.name


class FeaturePool(nn.Module):
    """Pooling of a (batch, width) tensor along its width (window 3, stride 1, padding 1), then batch normalisation."""

    def __init__(self, name: Pool, width: int) -> None:
        super().__init__()
        self.name = name
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Shape kept."""
        pooled: Tensor = self.norm(feature_pool(as_loops_take_it(x_BD), self.name))
        return pooled

    def extra_repr(self) -> str:
        """Name of the pooling."""
        return self.name


def operation(name: str, width_in: int, width_out: int) -> nn.Module:
    """The layer that `name` stands for between two widths; `canonical_name` tells which coincide."""
    if width_in < width_out:
        linear: nn.Module = nn.Linear(width_in, width_out)
    elif width_in > width_out or name in ACTIVATIONS:
        activation = name if name in ACTIVATIONS else "relu"
        linear = nn.Sequential(
            nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), Activation(activation)
        )
    else:
        linear = nn.Identity()
    if name in POOLINGS:
        return (
            FeaturePool(name, width_out)
            if width_in == width_out
            else nn.Sequential(linear, FeaturePool(name, width_out))
        )
    return linear


def canonical_name(name: str, width_in: int, width_out: int) -> str:
    """One name for all candidates that are the same function at these widths.

    A widening layer is a bare linear whatever its activation is called ("identity" here); a narrowing identity
    is the linear with ReLU.
    """
    if width_in < width_out and name not in POOLINGS:
        return "identity"
    if width_in > width_out and name == "identity":
        return "relu"
    return name


def canonical_cell(operations: tuple[str, ...], widths: tuple[int, ...]) -> tuple[str, ...]:
    """One form for all chains that are the same function: canonical names, and each identity behind its neighbours.

    An identity that keeps the width does nothing wherever it stands among layers that keep it, too.
    """
    pairs = list(itertools.pairwise(widths))
    named = [canonical_name(name, *pair) for name, pair in zip(operations, pairs, strict=True)]
    runs = itertools.groupby(zip(named, pairs, strict=True), key=lambda layer: layer[1])
    ordered: list[str] = []
    for (width_in, width_out), layers in runs:
        names = [name for name, _ in layers]
        ordered += sorted(names, key="identity".__eq__) if width_in == width_out else names
    return tuple(ordered)


def cell(operations: tuple[str, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """The chain of layers of a genotype; `widths` has one more entry than `operations`."""
    return nn.Sequential(
        *(operation(name, a, b) for name, a, b in zip(operations, widths[:-1], widths[1:], strict=True))
    )
