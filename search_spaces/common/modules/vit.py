"""The plain vision transformer: timm's blocks, in the sizes of a ViT by its name or of one's own; MAE's initialisation.

Names in shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from naslab.errors import InputError
from naslab.search_spaces.common.costs import stack

Pool: TypeAlias = Literal["class", "mean"]
EPSILON = 1e-6
"""Of every LayerNorm, as in MAE's code."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a stack of transformer blocks; `hidden` is the width inside the MLP."""

    width: int
    depth: int
    heads: int
    hidden: int

    def multiply_adds(self, tokens: int) -> int:
        """Cost of the stack on one sample of that many tokens."""
        return stack([(tokens, tokens)] * self.depth, self.width, self.hidden)

    def check(self, where: str) -> None:
        """Raise an InputError where the width does not divide into heads, or by 4, as MAE's positions need."""
        if self.width % self.heads:
            raise InputError(f"{where}: {self.width} is not divisible by {self.heads} heads")
        if self.width % 4:
            raise InputError(f"{where}: {self.width} is not divisible by 4, as the positions need")


class TokenEncoder(nn.Module, ABC):
    """A plain ViT that gives every token: a subclass makes `blocks` and `norm`, and says how samples are encoded."""

    blocks: nn.Sequential
    norm: nn.LayerNorm
    width: int
    leading: int
    """Class tokens before the patches: 1 or 0."""
    embedding: ClassVar[tuple[str, ...]]
    """How the names of the parameters before the blocks begin."""

    @abstractmethod
    def encode(self, samples: Tensor) -> Tensor:
        """Every token of whole samples before the last norm: (B, leading + L, D)."""

    def features(self, samples: Tensor) -> Tensor:
        """The same after the norm."""
        tokens: Tensor = self.norm(self.encode(samples))
        return tokens

    def pooled(self, samples: Tensor, pool: Pool) -> Tensor:
        """Features (B, D): the class token, or the mean of the patches, both after the norm."""
        tokens = self.features(samples)
        return tokens[:, 0] if pool == "class" else tokens[:, self.leading :].mean(1)


def find_sizes(encoder: str, own: tuple[int | None, int | None, int | None], where: str, mlp_ratio: int = 4) -> Sizes:
    """Sizes of an encoder that options name: `timm:NAME` of a plain ViT, or `own` of a width, depth and heads.

    Raises:
        InputError: an own encoder lacks a size, or there is no plain ViT of this name; `where` is the options' place.
    """
    if encoder == "own":
        width, depth, heads = own
        if width is None or depth is None or heads is None:
            raise InputError(f"{where}: an own encoder needs width, depth and heads")
        if width % heads:
            raise InputError(f"{where}.width: {width} is not divisible by {heads} heads")
        return Sizes(width, depth, heads, mlp_ratio * width)
    library, _, name = encoder.partition(":")
    if library != "timm":
        raise InputError(f"{where}.encoder: {encoder!r} is unknown; use own or timm:NAME")
    with torch.device("meta"):
        return named_sizes(name)


def named_sizes(name: str) -> Sizes:
    """Sizes of a plain ViT by timm's name, such as vit_large_patch16_224; build under `torch.device("meta")`.

    Raises:
        InputError: no such model, or none with a class token, absolute positions and blocks like MAE's.
    """
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:4]) if name else ""
        hint = f"; near: {near}" if near else ""
        raise InputError(f"space.options.encoder: timm has no model {name!r}; use a plain ViT{hint}")
    network: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if not _is_plain(network):
        raise InputError(
            f"space.options.encoder: {name!r} is not a plain ViT with a class token and pre-norm blocks; use one "
            "such as vit_base_patch16_224"
        )
    block = network.blocks[0]
    return Sizes(network.embed_dim, len(network.blocks), block.attn.num_heads, block.mlp.fc1.out_features)


def _is_plain(network: Any) -> bool:
    if type(network) is not VisionTransformer or network.num_prefix_tokens != 1 or network.cls_token is None:
        return False
    block: Any = network.blocks[0]
    plain = type(block) is Block and all(
        isinstance(part, nn.Identity) for part in (network.norm_pre, block.ls1, block.ls2, block.attn.q_norm)
    )
    return plain and block.attn.qkv.bias is not None and isinstance(block.mlp.act, nn.GELU)


def check_shape(samples: Tensor, shape: tuple[int, ...]) -> None:
    """Raise an InputError unless each of the samples (B, ...) has the shape that a model's positions are of."""
    if samples.shape[1:] != shape:
        given, wanted = ("x".join(map(str, sides)) for sides in (samples.shape[1:], shape))
        raise InputError(f"images: {given} do not fit the model's {wanted}")


def make_blocks(sizes: Sizes) -> nn.Sequential:
    """timm's pre-norm blocks with biases everywhere, (B, L, D) to (B, L, D)."""
    norm: Any = functools.partial(nn.LayerNorm, eps=EPSILON)
    return nn.Sequential(
        *(
            Block(
                sizes.width,
                sizes.heads,
                mlp_ratio=(sizes.hidden + 0.5) / sizes.width,  # timm cuts the product to an integer
                qkv_bias=True,
                norm_layer=norm,
            )
            for _ in range(sizes.depth)
        )
    )


def initialise(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform linears and patch embedding (as a matrix), biases 0, tokens normal(0.02).

    Draws from torch's global generator. Parameters whose names end in `_token` or `_places` are the tokens and the
    learned positions.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
        elif isinstance(part, nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(part.weight.data.view(part.weight.shape[0], -1))
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for name, parameter in module.named_parameters():
        if name.endswith(("_token", "_places")):
            nn.init.normal_(parameter, std=0.02)
