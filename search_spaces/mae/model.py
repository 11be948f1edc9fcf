"""The masked autoencoder of images: encode what is visible, put mask tokens in, rebuild the masked pixels.

He, Chen, Xie, Li, Dollar, Girshick 2022 (arXiv 2111.06377). Indices, gathers and loss are operations of `kernels`.

Names in shapes: B batch, C channels, H x W pixels, L tokens, K visible and M decoded masked tokens, P pixels of a
patch, D width of the encoder, E of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from naslab.kernels import TokenMask, gather_visible, patch_loss, restore_tokens
from naslab.search_spaces.common.modules.positions import plane_positions
from naslab.search_spaces.common.modules.vit import EPSILON, Sizes, initialise, make_blocks
from naslab.search_spaces.common.objectives.masked_patches import Masking, decoder_subset

Target: TypeAlias = Literal["pixel", "normalised_pixel"]


class Reconstruction(NamedTuple):
    """What a training forward returns. The prediction, (B, M, P), is for looking at: it carries no gradient."""

    loss: Tensor
    predicted_BMP: Tensor
    decoded_BM: Tensor


@dataclass(frozen=True)
class Design:
    """Everything that decides the function of a masked autoencoder, of images or clips."""

    encoder: Sizes
    decoder: Sizes
    masking: Masking
    in_channels: int
    patch_size: int
    target: Target
    encoder_mask_tokens: bool = False
    decoded: int | None = None
    """How many of the masked tokens are decoded and predicted; None: all."""

    @property
    def patch_pixels(self) -> int:
        """P of one frame."""
        return self.patch_size**2 * self.in_channels


class Autoencoder(nn.Module):
    """What images and clips have in common; a subclass says how samples become tokens and what is predicted.

    A subclass gives `embed`, `places` and `reconstruction_loss`.
    """

    def __init__(self, design: Design, outputs: int, class_token: bool = True) -> None:
        super().__init__()
        self.design = design
        width, narrow = design.encoder.width, design.decoder.width
        self.class_token = nn.Parameter(torch.zeros(width)) if class_token else None
        self.encoder_mask_token = nn.Parameter(torch.zeros(width)) if design.encoder_mask_tokens else None
        self.blocks = make_blocks(design.encoder)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.narrow = nn.Linear(width, narrow)
        whole = design.encoder_mask_tokens
        self.mask_token = None if whole else nn.Parameter(torch.zeros(narrow))
        self.decoder_blocks = make_blocks(design.decoder)
        self.decoder_norm = nn.LayerNorm(narrow, eps=EPSILON)
        self.head = nn.Linear(narrow, outputs)

    def embed(self, samples: Tensor) -> Tensor:
        """Tokens (B, L, D) without positions."""
        raise NotImplementedError

    def places(self) -> tuple[Tensor, Tensor]:
        """Positions of the encoder's tokens, (L, D), and of the decoder's, (L, E)."""
        raise NotImplementedError

    def reconstruction_loss(self, predicted_BMP: Tensor, samples: Tensor, decoded_BM: Tensor) -> Tensor:
        """Mean squared error of the decoded tokens' pixels."""
        raise NotImplementedError

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """One training forward: mask, encode, decode, compare.

        Args:
            images: images (B, C, H, W), or clips (B, T, C, H, W) of the video form, standardised.
            noise: uniform numbers in [0, 1), (B, L), from which the mask is made; of longer rows the first L.
                Drawn where None.

        Raises:
            ValueError: the noise has fewer numbers than there are tokens.
        """
        tokens_BLD = self.embed(images)
        length = self.design.masking.length
        if noise is None:
            noise = torch.rand(len(images), length, device=images.device)
        if noise.shape[1] < length:
            raise ValueError(f"noise: {noise.shape[1]} numbers a sample are too few for {length} tokens")
        noise = noise[:, :length]
        mask = self.design.masking.draw(noise)
        encoded = self._encode(tokens_BLD, mask)
        predicted_BMP, decoded_BM = self._decode(encoded, mask, noise)
        loss = self.reconstruction_loss(predicted_BMP, images, decoded_BM)
        return Reconstruction(loss, predicted_BMP.detach(), decoded_BM)

    def features(self, images: Tensor) -> Tensor:
        """Every token of whole samples after the encoder's last norm: class token, where there is one, then patches.

        Nothing is masked: (B, 1 + L, D), or (B, L, D) without a class token.
        """
        tokens: Tensor = self.norm(self.blocks(self._with_class(self.embed(images) + self.places()[0])))
        return tokens

    def _encode(self, tokens_BLD: Tensor, mask: TokenMask) -> Tensor:
        """Visible tokens, or all with mask tokens for the masked, through the encoder; the class token leads."""
        places_LD, _ = self.places()
        if self.encoder_mask_token is None:
            chosen = gather_visible(tokens_BLD, mask, places_LD)
        else:
            chosen = restore_tokens(gather_visible(tokens_BLD, mask), mask, self.encoder_mask_token, places_LD)
        encoded: Tensor = self.norm(self.blocks(self._with_class(chosen)))
        return encoded

    def _with_class(self, tokens_BLD: Tensor) -> Tensor:
        if self.class_token is None:
            return tokens_BLD
        return torch.cat([self.class_token.expand(len(tokens_BLD), 1, -1), tokens_BLD], 1)

    def _decode(self, encoded: Tensor, mask: TokenMask, noise_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (B, M, P) of the decoded masked tokens, and which these are, (B, M)."""
        _, places_LE = self.places()
        leading = 0 if self.class_token is None else 1
        narrowed = self.narrow(encoded)
        first, rest = narrowed[:, :leading], narrowed[:, leading:]
        if self.mask_token is None:
            rest_BLE = rest + places_LE
        else:
            rest_BLE = restore_tokens(rest, mask, self.mask_token, places_LE)
        if self.design.decoded is None:
            decoded_BLE = self.decoder_blocks(torch.cat([first, rest_BLE], 1))[:, leading:]
            masked = TokenMask(mask.masked_BM, mask.visible_BK, _masked_first(mask))
            chosen_BME, decoded_BM = gather_visible(decoded_BLE, masked), mask.masked_BM
        else:
            subset = decoder_subset(mask, noise_BL, self.design.masking.grid, self.design.decoded)
            visible = mask.visible_BK.shape[1]
            sequence = torch.cat([first, gather_visible(rest_BLE, subset)], 1)
            chosen_BME = self.decoder_blocks(sequence)[:, leading + visible :]
            decoded_BM = subset.visible_BK[:, visible:]
        return self.head(self.decoder_norm(chosen_BME)), decoded_BM


def _masked_first(mask: TokenMask) -> Tensor:
    """Ranks when the masked tokens come before the visible ones."""
    masked, visible = mask.masked_BM.shape[1], mask.visible_BK.shape[1]
    return torch.where(mask.rank_BL < visible, mask.rank_BL + masked, mask.rank_BL - visible)


class MaskedAutoencoder(Autoencoder):
    """MAE: patches of images, fixed sine-cosine positions, pixels of the masked patches.

    The positions are buffers of the state, since published weights bring their own.
    """

    encoder_places: Tensor
    decoder_places: Tensor

    def __init__(self, design: Design) -> None:
        super().__init__(design, design.patch_pixels)
        width, patch = design.encoder.width, design.patch_size
        self.patch_embed = nn.Conv2d(design.in_channels, width, patch, patch)
        _, rows, columns = design.masking.grid
        self.register_buffer("encoder_places", plane_positions(rows, columns, width))
        self.register_buffer("decoder_places", plane_positions(rows, columns, design.decoder.width))
        initialise(self)

    def embed(self, samples: Tensor) -> Tensor:
        """Patches of images (B, C, H, W) through the patch embedding, rows of the grid first."""
        tokens: Tensor = self.patch_embed(samples).flatten(2).transpose(1, 2)
        return tokens

    def places(self) -> tuple[Tensor, Tensor]:
        """Fixed; the class token's is zero."""
        return self.encoder_places, self.decoder_places

    def reconstruction_loss(self, predicted_BMP: Tensor, samples: Tensor, decoded_BM: Tensor) -> Tensor:
        """On pixels, or on pixels normalised by the mean and deviation of their patch."""
        design = self.design
        return patch_loss(predicted_BMP, samples, decoded_BM, design.patch_size, design.target == "normalised_pixel")
