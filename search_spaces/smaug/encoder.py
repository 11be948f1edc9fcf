"""The image encoder: a vision transformer on the visible patches of each frame, with token reduction inside.

Masked autoencoder (He et al. 2021): masked patches never enter the encoder. Token reduction (EViT, Liang et al. 2022,
or ToMe, Bolya et al. 2023) goes on among the visible ones, per frame, between attention and MLP of the chosen layers.

Names: F frames of all clips, L patches of a frame, K visible ones, N tokens that leave (class token first), D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from naslab.kernels import Matching, TokenMask, gather_visible, restore_tokens, unmerge_tokens
from naslab.search_spaces.common.modules.positions import line_positions, plane_positions
from naslab.search_spaces.common.modules.tokens import Reduction, kept_places, mask_at, nothing_masked, sparse_block
from naslab.search_spaces.common.modules.vit import EPSILON, initialise, make_blocks
from naslab.search_spaces.common.modules.vit import Sizes as ViTSizes
from naslab.search_spaces.common.objectives.hidden_places import at_places
from naslab.search_spaces.smaug.options import SMAUGOptions


class Encoded(NamedTuple):
    """Tokens (F, N, D) of each frame, and where they came from.

    `mask` holds the places of the tokens beside the class token: of L patches and, after them, one for each fused
    token. Tokens that ToMe merged are brought back by `matchings` first.
    """

    tokens_FND: Tensor
    mask: TokenMask
    matchings: tuple[Matching, ...]
    sizes_FN: Tensor | None = None
    """Of merged tokens: how many of the frame's each stands for."""


class FrameEncoder(nn.Module):
    """Patches of frames to tokens; every frame by itself."""

    def __init__(self, sizes: SMAUGOptions, frames: int, reduction: Reduction) -> None:
        super().__init__()
        self.reduction, self.patches = reduction, sizes.patches
        self.vit: Any = VisionTransformer(
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            in_chans=sizes.in_channels,
            num_classes=0,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            proj_drop_rate=sizes.dropout,
        )
        initialise(self.vit)
        side = sizes.image_size // sizes.patch_size
        positions_1LD: Any = self.vit.pos_embed
        with torch.no_grad():
            positions_1LD.zero_()
            positions_1LD[0, 1:] = plane_positions(side, side, sizes.width)
        self.temporal_TD = nn.Parameter(line_positions(frames, sizes.width))
        for layer, block in enumerate(self.vit.blocks):
            self.vit.blocks[layer] = sparse_block(
                block, reduction if layer in reduction.layers else Reduction(), prefix=1
            )

    def embed(self, frames_BTCHW: Tensor) -> Tensor:
        """Embedded patches (B, T, L, D) with the frame's time added."""
        batch, times = frames_BTCHW.shape[:2]
        patches = self.vit.patch_embed(frames_BTCHW.flatten(0, 1)).unflatten(0, (batch, times))
        embedded: Tensor = patches + self.temporal_TD[:, None]
        return embedded

    def forward(self, patches_FLD: Tensor, mask: TokenMask | None) -> Encoded:
        """Encode the visible patches of each frame; all of them where there is no mask."""
        positions = self.vit.pos_embed[0]
        if mask is None:
            mask = nothing_masked(patches_FLD)
            x = patches_FLD + positions[1:]
        else:
            x = gather_visible(patches_FLD, mask, positions[1:])
        x = torch.cat([(self.vit.cls_token + positions[:1]).expand(len(x), 1, -1), x], 1)
        places, matchings, sizes = mask.visible_BK, [], None
        for layer, block in enumerate(self.vit.blocks):
            x, sizes, dropped = block.step(x, sizes)
            if isinstance(dropped, Matching):
                matchings.append(dropped)
            elif dropped is not None:
                fused = self.patches + self.reduction.layers.index(layer)
                places = kept_places(places, dropped, fused if self.reduction.fuse else None)
        if places is not mask.visible_BK:
            mask = mask_at(places, self.patches + len(self.reduction.layers))
        return Encoded(self.vit.norm(x), mask, tuple(matchings), sizes)


class FrameDecoder(nn.Module):
    """A light decoder from the tokens that are left to the pixels of the masked patches."""

    def __init__(self, sizes: SMAUGOptions, depth: int) -> None:
        super().__init__()
        width = sizes.decoder_width
        self.patches = sizes.patches
        self.narrow = nn.Linear(sizes.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        side = sizes.image_size // sizes.patch_size
        self.positions_LD = nn.Parameter(plane_positions(side, side, width))
        self.blocks = make_blocks(ViTSizes(width, depth, sizes.decoder_heads, 4 * width))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.predict = nn.Linear(width, sizes.patch_values)
        initialise(self)

    def forward(self, encoded: Encoded, masked_FM: Tensor) -> Tensor:
        """Predicted pixels (F, M, P) of the masked patches; patches that were dropped count as masked here."""
        tokens = self.narrow(encoded.tokens_FND)
        for matching in reversed(encoded.matchings):
            tokens = unmerge_tokens(tokens, matching)
        x = restore_tokens(tokens[:, 1:], encoded.mask, self.mask_token)[:, : self.patches] + self.positions_LD
        x = self.norm(self.blocks(x))
        predicted_FMP: Tensor = self.predict(at_places(x, masked_FM))
        return predicted_FMP


def frame_features(tokens_BTND: Tensor, sizes_BTN: Tensor | None = None) -> Tensor:
    """What a frame is judged by: mean and maximum of its tokens (STTS, Wang et al. 2022), (B, T, 2D).

    Args:
        sizes_BTN: of merged tokens, how many patches each stands for and so weighs in the mean.
    """
    if sizes_BTN is None:
        mean = tokens_BTND.mean(2)
    else:
        share = (sizes_BTN / sizes_BTN.sum(2, keepdim=True)).to(tokens_BTND.dtype)
        mean = (tokens_BTND * share[..., None]).sum(2)
    return torch.cat([mean, tokens_BTND.amax(2)], -1)
