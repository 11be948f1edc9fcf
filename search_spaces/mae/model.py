"""The masked autoencoder of images: encode visible patches, insert mask tokens, reconstruct the masked pixels.

He, Chen, Xie, Li, Dollar, Girshick 2022 (arXiv 2111.06377). Indices, gathers and loss are operations of `kernels`.

Names in shapes: B batch, C channels, H x W pixels, L tokens, K visible and M decoded masked tokens, P pixels of a
patch, D width of the encoder, E of the decoder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from naslab.kernels import TokenMask, gather_visible, patch_loss, restore_tokens
from naslab.search_spaces.common.modules.positions import plane_positions
from naslab.search_spaces.common.modules.vit import EPSILON, Sizes, TokenEncoder, check_shape, initialise, make_blocks
from naslab.search_spaces.common.objectives.float32 import in_float32
from naslab.search_spaces.common.objectives.masked_patches import Masking, gather_masked
from naslab.search_spaces.common.objectives.running_cell import RunningCell

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
    decoder_keep: float = 1.0
    """Share of all tokens that the decoder rebuilds (see RunningCell); 1: all that are masked."""

    @property
    def patch_pixels(self) -> int:
        """P of one frame."""
        return self.patch_size**2 * self.in_channels

    @property
    def cell(self) -> RunningCell | None:
        """Which masked tokens are rebuilt; None: all."""
        return None if self.decoder_keep == 1 else RunningCell(self.decoder_keep, self.masking)

    @property
    def predicted(self) -> int:
        """M, masked tokens whose pixels are predicted."""
        return self.masking.length - self.masking.visible if self.cell is None else self.cell.predicted

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image or a frame."""
        _, rows, columns = self.masking.grid
        return self.in_channels, rows * self.patch_size, columns * self.patch_size


class Autoencoder(TokenEncoder):
    """What images and clips have in common; a subclass says how samples become tokens and what is predicted."""

    embedding = ("patch_embed", "tube_embed", "encoder_places", "class_")

    def __init__(self, design: Design, outputs: int, class_token: bool = True) -> None:
        super().__init__()
        self.design = design
        self.width, self.leading = design.encoder.width, int(class_token)
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

    @abstractmethod
    def embed(self, samples: Tensor) -> Tensor:
        """Tokens (B, L, D) without positions."""

    @abstractmethod
    def places(self) -> tuple[Tensor, Tensor]:
        """Positions of the encoder's tokens, (L, D), and of the decoder's, (L, E)."""

    @abstractmethod
    def reconstruction_loss(self, predicted_BMP: Tensor, samples: Tensor, decoded_BM: Tensor) -> Tensor:
        """Mean squared error of the decoded tokens' pixels."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.design.frame_shape

    def class_tokens(self) -> tuple[Tensor | None, Tensor | None]:
        """What leads the encoder's tokens, and the decoder's; None there: the encoder's own output goes on."""
        return self.class_token, None

    def standardised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Tell how the samples' channels were standardised; for a target in plain pixel values."""

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """One training forward: mask, encode, decode, compare.

        Args:
            images: images (B, C, H, W), or clips (B, T, C, H, W) of the video form, standardised.
            noise: uniform numbers in [0, 1), (B, L), from which the mask is made; of longer rows the first L.
                Drawn where None.

        Raises:
            InputError: samples of another shape than the model's.
            ValueError: the noise has fewer numbers than there are tokens.
        """
        tokens_BLD = self._embedded(images)
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

    def encode(self, samples: Tensor) -> Tensor:
        """See TokenEncoder; nothing is masked."""
        tokens: Tensor = self.blocks(self._with_class(self._embedded(samples) + self.places()[0]))
        return tokens

    def _embedded(self, samples: Tensor) -> Tensor:
        check_shape(samples, self.sample_shape)
        return self.embed(samples)

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
        token, _ = self.class_tokens()
        return tokens_BLD if token is None else torch.cat([token.expand(len(tokens_BLD), 1, -1), tokens_BLD], 1)

    def _decode(self, encoded: Tensor, mask: TokenMask, noise_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions (B, M, P) of the decoded masked tokens, and which these are, (B, M)."""
        first, rest = self._narrowed(encoded)
        cell = self.design.cell
        if cell is None:
            decoded_BLE = self.decoder_blocks(torch.cat([first, self._in_place(rest, mask)], 1))[:, self.leading :]
            chosen_BME, decoded_BM = gather_masked(decoded_BLE, mask), mask.masked_BM
        else:
            decoded_BM, spare_BS = cell.draw(mask, noise_BL)
            partly_BNE = self._partly(rest, mask, torch.cat([decoded_BM, spare_BS], 1))
            decoded_BNE = self.decoder_blocks(torch.cat([first, partly_BNE], 1))
            chosen_BME = decoded_BNE[:, self.leading : self.leading + cell.predicted]
        return self.head(self.decoder_norm(chosen_BME)), decoded_BM

    def _narrowed(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """What leads the decoder's tokens, (B, 0 or 1, E), and the encoded tokens in its width."""
        _, token = self.class_tokens()
        if token is None:
            narrowed = self.narrow(encoded)
            return narrowed[:, : self.leading], narrowed[:, self.leading :]
        return token.expand(len(encoded), 1, -1), self.narrow(encoded[:, self.leading :])

    def _in_place(self, rest: Tensor, mask: TokenMask) -> Tensor:
        """All tokens in order with their positions, mask tokens for the masked: (B, L, E)."""
        _, places_LE = self.places()
        return rest + places_LE if self.mask_token is None else restore_tokens(rest, mask, self.mask_token, places_LE)

    def _partly(self, rest: Tensor, mask: TokenMask, rebuilt_BN: Tensor) -> Tensor:
        """Mask tokens at the places to rebuild, then the visible tokens, all with their positions: (B, N + K, E)."""
        _, places_LE = self.places()
        if self.mask_token is None:
            rows = torch.arange(len(rest), device=rest.device)[:, None]
            return (rest + places_LE)[rows, torch.cat([rebuilt_BN, mask.visible_BK], 1)]
        return torch.cat([self.mask_token + places_LE[rebuilt_BN], rest + places_LE[mask.visible_BK]], 1)


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
        normalised = design.target == "normalised_pixel"
        return in_float32(patch_loss)(predicted_BMP, samples, decoded_BM, design.patch_size, normalised)
