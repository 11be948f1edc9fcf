"""Transformer layers of language models: pre-norm, rotary positions, gated GELU, causal or not, with cross-attention.

Bias-free matrices and the gated feed-forward are those of T5 1.1; positions are rotary where T5 has a bias, so that
they cost no parameters and thin out with the sequence. Names: B batch, L tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.search_spaces.common.modules.experts import ExpertSizes, MixtureOfExperts

EPSILON = 1e-6
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class BlockSizes:
    """Shape of one layer. `memory_width` is that of what the layer attends to across, None without cross-attention."""

    width: int
    head_width: int
    hidden: int
    causal: bool = True
    memory_width: int | None = None
    experts: ExpertSizes | None = None


@dataclass(frozen=True)
class Context:
    """What each layer is given beside its input: rotations (L, head_width / 2), and the memory (B, S, M)."""

    cosine: Tensor
    sine: Tensor
    memory: Tensor | None = None

    def thinned(self, stride: int) -> Context:
        """The context of every `stride`-th token."""
        return Context(self.cosine[::stride], self.sine[::stride], self.memory)


def context(length: int, head_width: int, device: torch.device, memory: Tensor | None = None) -> Context:
    """The context of `length` tokens at positions 0, 1, ... (RoFormer, Su et al. 2021)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return Context(angles.cos(), angles.sin(), memory)


Branch: TypeAlias = Callable[[Tensor, Context], Tensor]


class Block(nn.Module):
    """One layer: each branch adds to its input. `branches` are what Hyper-Connections take apart."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.self_attention = SelfAttention(sizes)
        self.cross_attention = None if sizes.memory_width is None else CrossAttention(sizes, sizes.memory_width)
        self.feed_forward = FeedForward(sizes)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The layer's parts without their residual connections, in order."""
        parts = (self.self_attention, self.cross_attention, self.feed_forward)
        return tuple(part for part in parts if part is not None)

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        for branch in self.branches:
            x_BLD = x_BLD + branch(x_BLD, context)
        return x_BLD


class SelfAttention(nn.Module):
    """Multi-head attention of normalised tokens to each other."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.head_width, self.causal = sizes.head_width, sizes.causal
        self.norm = nn.RMSNorm(sizes.width, eps=EPSILON)
        self.query, self.key, self.value, self.output = (linear(sizes.width, sizes.width) for _ in range(4))

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:
        """(B, L, D) -> (B, L, D), without the residual."""
        x_BLD = self.norm(x_BLD)
        query, key, value = (heads(part(x_BLD), self.head_width) for part in (self.query, self.key, self.value))
        query, key = rotate(query, context), rotate(key, context)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.output(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention of normalised tokens to the encoder's output, which may be K times as wide."""

    def __init__(self, sizes: BlockSizes, memory_width: int) -> None:
        super().__init__()
        self.head_width = sizes.head_width
        self.norm = nn.RMSNorm(sizes.width, eps=EPSILON)
        self.query, self.output = linear(sizes.width, sizes.width), linear(sizes.width, sizes.width)
        self.key, self.value = linear(memory_width, sizes.width), linear(memory_width, sizes.width)

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:
        """(B, L, D) -> (B, L, D), without the residual."""
        assert context.memory is not None
        query = heads(self.query(self.norm(x_BLD)), self.head_width)
        key, value = (heads(part(context.memory), self.head_width) for part in (self.key, self.value))
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Gated GELU; or a mixture of experts in its place; or, with partial experts, both added."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(sizes.width, eps=EPSILON)
        experts = sizes.experts
        self.experts = None if experts is None else MixtureOfExperts(sizes.width, experts)
        dense = experts is None or experts.partial
        self.gate = linear(sizes.width, sizes.hidden) if dense else None
        self.up = linear(sizes.width, sizes.hidden) if dense else None
        self.down = linear(sizes.hidden, sizes.width) if dense else None

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:
        """(B, L, D) -> (B, L, D), without the residual."""
        x_BLD = self.norm(x_BLD)
        if self.gate is None or self.up is None or self.down is None:
            assert self.experts is not None
            return self.experts(x_BLD)  # type: ignore[no-any-return]
        dense_BLD: Tensor = self.down(F.gelu(self.gate(x_BLD), approximate="tanh") * self.up(x_BLD))
        return dense_BLD if self.experts is None else dense_BLD + self.experts(x_BLD)


def quieten(blocks: Iterable[Block]) -> None:
    """Scale down what the branches add, so that the sum over all layers starts at the size of the embedding (GPT-2)."""
    chosen = list(blocks)
    for block in chosen:
        parts = [block.self_attention.output.weight]
        if block.cross_attention is not None:
            parts.append(block.cross_attention.output.weight)
        if block.feed_forward.down is not None:
            parts.append(block.feed_forward.down.weight)
        if block.feed_forward.experts is not None:
            parts.append(block.feed_forward.experts.down)
        with torch.no_grad():
            for weight in parts:
                weight.mul_((2 * len(chosen)) ** -0.5)


def linear(wide: int, narrow: int) -> nn.Linear:
    """A bias-free matrix with entries of variance 1 / fan-in."""
    layer = nn.Linear(wide, narrow, bias=False)
    nn.init.normal_(layer.weight, std=wide**-0.5)
    return layer


def heads(x_BLD: Tensor, head_width: int) -> Tensor:
    """(B, L, H * head_width) -> (B, H, L, head_width)."""
    return x_BLD.unflatten(-1, (-1, head_width)).transpose(1, 2)  # type: ignore[no-any-return]


def rotate(x_BHLC: Tensor, context: Context) -> Tensor:
    """Turn each pair (first half, second half) of a head by its position's angles."""
    first, second = x_BHLC.chunk(2, dim=-1)
    cosine, sine = context.cosine.to(x_BHLC.dtype), context.sine.to(x_BHLC.dtype)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
