"""The NASiam supernet: every candidate operation in every layer, mixed by relaxed architecture parameters.

The candidates' linears are batched: one matrix product for the four activated ones of a layer that keeps its
width, one for all seven where it narrows, and where it widens the five bare linears collapse into the one whose
weight is their weighted sum (the same function and gradients at a fifth of the cost). Both views of a batch go through
them together, since their weights are most of what moves; only normalisation is a view's own.

Shapes: layers map (V, B, width_in) of V views, or (B, width_in) of one, to their width_out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from naslab.errors import InputError
from naslab.kernels import ACTIVATIONS, mixed_activation
from naslab.search_spaces.data.placing import constant
from naslab.search_spaces.nasiam.frameworks import Framework, JointHead, Views
from naslab.search_spaces.nasiam.heads import Sizes, tail
from naslab.search_spaces.nasiam.operations import (
    OPERATIONS,
    PARAMETER_FREE,
    POOLINGS,
    FeaturePool,
    as_loops_take_it,
)
from naslab.search_spaces.supernet import Relaxation, Supernet

NUM_POOLINGS = len(POOLINGS)
ACTIVATED = tuple(ACTIVATIONS)


def by_view(function: Callable[[Tensor], Tensor], x: Tensor, dims: int = 2) -> Tensor:
    """What uses batch statistics, of each view's batch by itself; one view has `dims` dimensions."""
    return function(x) if x.ndim == dims else torch.stack([function(view) for view in x.unbind()])


class MixedNorm(nn.BatchNorm1d):
    """Batch normalisation, activation and weighted sum of stacked candidates, as one operation."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, activations: tuple[str, ...], width: int) -> None:
        super().__init__(len(activations) * width)
        self.activations = activations

    def mix(self, stacked: Tensor, mixing_K: Tensor) -> Tensor:
        """Weighted sum over the candidates: (V, B, K, D) to (V, B, D), or both without V."""
        return by_view(lambda view: self._mix(view, mixing_K), as_loops_take_it(stacked), dims=3)

    def _mix(self, stacked_BKD: Tensor, mixing_K: Tensor) -> Tensor:
        shape = (len(self.activations), -1)
        scale_KD, shift_KD = self.weight.unflatten(0, shape), self.bias.unflatten(0, shape)
        statistics = None
        if not self.training:
            statistics = self.running_mean.unflatten(0, shape), self.running_var.unflatten(0, shape)
        mixed = mixed_activation(stacked_BKD, mixing_K, scale_KD, shift_KD, self.activations, statistics, self.eps)
        if self.training:
            self._follow(mixed.mean_KD.flatten(), mixed.variance_KD.flatten(), len(stacked_BKD))
        return mixed.output

    @torch.no_grad()
    def _follow(self, mean_E: Tensor, variance_E: Tensor, batch: int) -> None:
        momentum = self.momentum or 0.1
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean_E, momentum)
        self.running_var.lerp_(variance_E * (batch / (batch - 1)), momentum)


class KeepingLayer(nn.Module):
    """All seven candidates at one width: poolings, identity, and the activated linears stacked."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(FeaturePool(name, width) for name in POOLINGS)
        self.linear = nn.Linear(width, len(ACTIVATED) * width, bias=False)
        self.norm = MixedNorm(ACTIVATED, width)

    def forward(self, x: Tensor, mixing_O: Tensor) -> Tensor:
        """Weighted sum over the candidates."""
        stacked = self.linear(x).unflatten(-1, (len(ACTIVATED), -1))
        mixed = self.norm.mix(stacked, mixing_O[NUM_POOLINGS + 1 :]) + mixing_O[NUM_POOLINGS] * x
        for pool, weight in zip(self.pools, mixing_O, strict=False):
            mixed = mixed + weight * by_view(pool, x)
        return mixed


class NarrowingLayer(nn.Module):
    """All seven candidates behind a linear of their own to a smaller width; poolings and identity take ReLU."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, len(OPERATIONS) * width_out, bias=False)
        self.pooled_norm = nn.BatchNorm1d(NUM_POOLINGS * width_out)
        self.norm = MixedNorm(("relu", *ACTIVATED), width_out)
        self.pools = nn.ModuleList(FeaturePool(name, width_out) for name in POOLINGS)

    def forward(self, x: Tensor, mixing_O: Tensor) -> Tensor:
        """Weighted sum over the candidates."""
        stacked = self.linear(x).unflatten(-1, (len(OPERATIONS), -1))
        mixed = self.norm.mix(stacked[..., NUM_POOLINGS:, :], mixing_O[NUM_POOLINGS:])
        pooled = by_view(self.pooled_norm, stacked[..., :NUM_POOLINGS, :].flatten(-2)).relu()
        for part, pool, weight in zip(pooled.chunk(NUM_POOLINGS, -1), self.pools, mixing_O, strict=False):
            mixed = mixed + weight * by_view(pool, part)
        return mixed


class WideningLayer(nn.Module):
    """All seven candidates to a larger width: bare linears, two of them pooled."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, len(OPERATIONS) * width_out)
        self.pools = nn.ModuleList(FeaturePool(name, width_out) for name in POOLINGS)

    def forward(self, x: Tensor, mixing_O: Tensor) -> Tensor:
        """Weighted sum over the candidates."""
        weight_OEI = self.linear.weight.unflatten(0, (len(OPERATIONS), -1))
        bias_OE = self.linear.bias.unflatten(0, (len(OPERATIONS), -1))
        bare = mixing_O[NUM_POOLINGS:]
        mixed = nn.functional.linear(
            x,
            torch.einsum("o,oei->ei", bare, weight_OEI[NUM_POOLINGS:]),
            torch.einsum("o,oe->e", bare, bias_OE[NUM_POOLINGS:]),
        )
        for k, pool in enumerate(self.pools):
            mixed = mixed + mixing_O[k] * by_view(pool, nn.functional.linear(x, weight_OEI[k], bias_OE[k]))
        return mixed


class PartialLayer(nn.Module):
    """PC-DARTS (Xu 2020): the first 1/K of the features are mixed, the rest pass; then features are shuffled."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.mixed = KeepingLayer(width // parts)

    def forward(self, x: Tensor, mixing_O: Tensor) -> Tensor:
        """Shape kept; feature i of part k moves to place i K + k, so that the next layer mixes others."""
        part = x.shape[-1] // self.parts
        joined = torch.cat([self.mixed(x[..., :part], mixing_O), x[..., part:]], dim=-1)
        shuffled: Tensor = joined.unflatten(-1, (self.parts, part)).transpose(-1, -2).flatten(-2)
        return shuffled


class MixedCell(JointHead):
    """A chain of mixed layers. `mixing` gives the weights (layers, candidates), asked once per forward."""

    def __init__(self, widths: tuple[int, ...], mixing: Callable[[], Tensor], partial_channels: int) -> None:
        super().__init__()
        self.mixing = mixing
        self.layers = nn.ModuleList(_mixed_layer(a, b, partial_channels) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Through every layer, each with its row of weights."""
        for layer, mixing_O in zip(self.layers, self.mixing(), strict=True):
            x = layer(x, mixing_O)
        return x


class MixedProjector(nn.Sequential, JointHead):
    """A mixed cell and its fixed tail."""

    def forward(self, x: Tensor) -> Tensor:
        """Through cell and tail."""
        for module in self:
            x = by_view(module, x) if isinstance(module, nn.BatchNorm1d) else module(x)
        return x


def _mixed_layer(width_in: int, width_out: int, partial_channels: int) -> nn.Module:
    if width_in > width_out:
        return NarrowingLayer(width_in, width_out)
    if width_in < width_out:
        return WideningLayer(width_in, width_out)
    if partial_channels == 1:
        return KeepingLayer(width_in)
    if width_in % partial_channels:
        raise InputError(f"partial_channels: {partial_channels} does not divide the cell's width {width_in}")
    return PartialLayer(width_in, partial_channels)


class MixedHeads:
    """The architecture parameters, their relaxation, and factories of the heads that they mix.

    Online and momentum heads come from the same factory and so share the architecture parameters.
    """

    def __init__(self, sizes: Sizes, relaxation: Relaxation, partial_channels: int) -> None:
        self.sizes = sizes
        self.relaxation = relaxation
        self.partial_channels = partial_channels
        self.alphas = nn.ParameterDict(
            {cell: nn.Parameter(torch.zeros(len(widths) - 1, len(OPERATIONS))) for cell, widths in sizes.cells.items()}
        )

    def projector(self) -> nn.Module:
        """Mixed projector cell and its fixed tail."""
        return MixedProjector(self._cell("projector"), *tail(self.sizes))

    def predictor(self) -> nn.Module:
        """Mixed predictor cell."""
        return self._cell("predictor")

    def _cell(self, name: str) -> MixedCell:
        return MixedCell(self.sizes.cells[name], lambda: self.relaxation(self.alphas[name]), self.partial_channels)


class NASiamSupernet(Supernet):
    """A framework with mixed heads."""

    def __init__(self, framework: Framework, heads: MixedHeads) -> None:
        super().__init__()
        self.framework = framework
        self.heads = heads
        self.alphas = heads.alphas

    @property
    def relaxation(self) -> Relaxation:
        """How alphas become mixing weights."""
        return self.heads.relaxation

    @relaxation.setter
    def relaxation(self, relaxation: Relaxation) -> None:
        self.heads.relaxation = relaxation

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Backbone features (B, F), which evaluation scores."""
        return self.framework.features(images_BCHW)

    def project(self, images_BCHW: Tensor) -> Tensor:
        """Projections (B, D) of the mixed projector."""
        return self.framework.project(images_BCHW)

    def loss(self, batch: Views) -> Tensor:
        """The framework's loss."""
        return self.framework.loss(batch)

    def architecture_loss(self, batch: Views) -> Tensor:
        """The loss with the backbones run without a gradient: alphas sit in the heads alone."""
        with torch.no_grad():
            encoded = self.framework.encode(batch)
        return self.framework.head_loss(encoded)

    def before_step(self) -> None:
        """Queue of the framework."""
        self.framework.before_step()

    def after_step(self, progress: float) -> None:
        """Momentum encoder and queue of the framework."""
        self.framework.after_step(progress)

    def skipping(self, name: str) -> Tensor:
        """Parameter-free candidates: only where the layer keeps its width does a candidate have no linear."""
        widths = self.heads.sizes.cells[name]
        free = [operation in PARAMETER_FREE for operation in OPERATIONS]
        mask = tuple(tuple(a == b and one for one in free) for a, b in itertools.pairwise(widths))
        return constant(mask, self.alphas[name].device)
