"""The MAE space: how much of an image or clip to mask and how, and what rebuilds it.

He et al. 2022 (arXiv 2111.06377) for images; Feichtenhofer et al. 2022, Tong et al. 2022 and Wang et al. 2023 for
clips. Sizes of encoder and input are options, fixed by the study; the parameters are what the papers ablate. The
number of epochs, the other knob, is the task's: it is the fidelity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.common.modules.vit import Sizes, find_sizes
from naslab.search_spaces.common.objectives.masked_patches import GRID_RATIO, Kind, Masking
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.mae.costs import forward_flops
from naslab.search_spaces.mae.model import Autoencoder, Design, MaskedAutoencoder, Target
from naslab.search_spaces.mae.video import ClipDesign, VideoMaskedAutoencoder
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Unless, Value, When
from naslab.search_spaces.space import SearchSpace

MLP_RATIO = 4
FEWEST_TOKENS = 20
"""Of an image that engines may propose: at a masking ratio of .95 one of 20 stays."""
SMALLEST_PATCH = 2
LARGEST_PATCH = 32
"""Side of the largest patch that engines may propose; any size that divides the image is valid."""


OWN, CLIPS = When("encoder", ("own",)), Unless("frames", (1,))


class MAEOptions(Options):
    """What a study fixes. The encoder is `timm:NAME` of a plain ViT, or `own` with width, depth and heads."""

    encoder: str = "timm:vit_base_patch16_224"
    width: Annotated[int | None, OWN] = Field(None, ge=4)
    depth: Annotated[int | None, OWN] = Field(None, ge=1)
    heads: Annotated[int | None, OWN] = Field(None, ge=1)
    in_channels: int = Field(3, ge=1)
    image_size: int = Field(224, ge=4)
    decoder_heads: int = Field(16, ge=1)
    published_patch: int = Field(16, ge=1)
    """Patch, masking ratio and decoder of the reference configuration; the defaults are MAE's."""
    published_ratio: float = Field(0.75, ge=0.1, le=0.95)
    published_decoder: tuple[int, int] = (8, 512)
    """Blocks and width."""
    frames: int = Field(1, ge=1)
    """1: images; more: clips, and what follows applies."""
    tubelet: Annotated[int, CLIPS] = Field(2, ge=1)
    """Frames of a space-time patch."""
    positions: Annotated[Literal["separable", "sinusoid"], CLIPS] = "separable"
    class_token: Annotated[bool, CLIPS] = True
    predicted_frames: Annotated[Literal["one", "all"], CLIPS, Unless("tubelet", (1,))] = "one"
    """Of each tube."""
    normalised_by: Annotated[Literal["patch", "channel"], CLIPS] = "patch"
    clip_mask: Annotated[Literal["agnostic", "tube"], CLIPS] = "agnostic"
    """Mask of the reference configuration."""
    decoder_keep: Annotated[float, CLIPS] = Field(1.0, gt=0, le=1)
    """Share of all tokens that the decoder rebuilds, as far as they are masked (VideoMAE V2: .5); 1: all masked."""


VIDEO_MAE = {
    "encoder": "timm:vit_base_patch16_224", "published_decoder": (4, 384), "decoder_heads": 6, "frames": 16,
    "published_ratio": 0.9, "positions": "sinusoid", "class_token": False, "predicted_frames": "all",
    "normalised_by": "channel", "clip_mask": "tube",
}  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """The values of a configuration."""

    masking_ratio: float
    mask: Kind
    decoder_depth: int
    decoder_width: int
    target: Target
    encoder_mask_tokens: bool
    patch_size: int


class MAE(SearchSpace):
    """Masked autoencoders over one encoder: masking, decoder, target and patches vary."""

    name = "mae"
    Options = MAEOptions
    options: MAEOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "encoder": "own", "width": 64, "depth": 4, "heads": 4, "published_decoder": (2, 32), "decoder_heads": 4,
            "published_patch": 4, "in_channels": 1, "image_size": 28,
        },
        "small": {
            "encoder": "own", "width": 192, "depth": 12, "heads": 3, "published_decoder": (4, 128), "decoder_heads": 4,
            "published_patch": 8, "in_channels": 3, "image_size": 96,
        },
        "tiny-video": {
            "encoder": "own", "width": 64, "depth": 4, "heads": 4, "published_decoder": (2, 64), "decoder_heads": 2,
            "published_patch": 8, "in_channels": 1, "image_size": 32, "frames": 8, "published_ratio": 0.9,
            "positions": "sinusoid", "predicted_frames": "all",
        },
        "paper": {"encoder": "timm:vit_large_patch16_224"},
        "paper-base": {"encoder": "timm:vit_base_patch16_224"},
        "paper-huge": {"encoder": "timm:vit_huge_patch14_224", "published_patch": 14},
        "paper-video": {
            "encoder": "timm:vit_large_patch16_224", "published_decoder": (4, 512), "frames": 16,
            "published_ratio": 0.9,
        },
        "paper-videomae": VIDEO_MAE,
        "paper-videomae-v2": {**VIDEO_MAE, "decoder_keep": 0.5},
    }  # fmt: skip

    def __init__(self, options: MAEOptions) -> None:
        super().__init__(options)
        own = (options.width, options.depth, options.heads)
        self.encoder = find_sizes(options.encoder, own, "space.options", MLP_RATIO)
        self._check_options()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """In the order of the papers' ablations."""
        step, width = self._width_step, self.encoder.width
        narrowest = max(step, width // 8 // step * step)
        return (
            Float(
                "masking_ratio", 0.1, 0.95, reason="below .1 next to nothing is left to predict; MAE sweeps .1 to .9"
            ),
            Categorical(
                "mask",
                self._kinds,
                proposed=tuple(kind for kind in self._kinds if kind != "grid"),
                reason="the papers' masks; grid keeps one patch in four, so it goes with .75 alone and is not proposed",
            ),
            Integer("decoder_depth", 1, 12, reason="the papers ablate 1 to 12 blocks; one is enough to fine-tune"),
            Integer(
                "decoder_width",
                narrowest,
                max(narrowest, 2 * width // step * step, self.options.published_decoder[1]),
                step=step,
                reason="an eighth to twice the encoder's width, in steps that the decoder's heads and positions divide",
            ),
            Categorical("target", ("normalised_pixel", "pixel"), reason="normalising gains half a point in the paper"),
            Categorical(
                "encoder_mask_tokens", (False, True), reason="true is the ablation that costs three times as much"
            ),
            self._patch_parameter(),
        )

    @property
    def reference(self) -> Configuration:
        """The published setting, scaled to the preset's sizes: 75 % of an image or 90 % of a clip, light decoder."""
        options = self.options
        depth, width = options.published_decoder
        mask: Kind = "random" if options.frames == 1 else options.clip_mask
        published = Chosen(
            options.published_ratio, mask, depth, width, "normalised_pixel", False, options.published_patch
        )
        return self.configuration(asdict(published))

    @property
    def published(self) -> Mapping[str, Configuration]:
        """The paper's other settings: the cheapest decoder, and the encoder that sees mask tokens."""
        reference = self.reference.as_dict()
        return {
            "one-block": self.configuration({**reference, "decoder_depth": 1}),
            "with-mask-tokens": self.configuration({**reference, "encoder_mask_tokens": True}),
        }

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """Refuse what leaves no token visible or none masked, and a grid mask at another ratio than 3 in 4.

        Ratios that mask as many tokens are one: the roundest of them.
        """
        masking = self._masking(into(values, Chosen))
        if masking.kind == "grid" and masking.ratio != GRID_RATIO:
            raise InputError(
                f"masking_ratio: a grid mask keeps one patch in four; use {GRID_RATIO}, not {masking.ratio:g}"
            )
        if not 0 < masking.visible < masking.length:
            left = "no token visible" if masking.visible < 1 else "no token masked"
            raise InputError(
                f"masking_ratio: {masking.ratio:g} of {masking.length} tokens (patch_size {values['patch_size']}) "
                f"leaves {left}; change masking_ratio or patch_size"
            )
        return {**values, "masking_ratio": masking.canonical_ratio()}

    def build(self, configuration: Configuration) -> Autoencoder:
        """A MaskedAutoencoder of images, or a VideoMaskedAutoencoder where `frames` is above 1."""
        options, chosen = self.options, configuration.into(Chosen)
        width = chosen.decoder_width
        design = Design(
            encoder=self.encoder,
            decoder=Sizes(width, chosen.decoder_depth, options.decoder_heads, MLP_RATIO * width),
            masking=self._masking(chosen),
            in_channels=options.in_channels,
            patch_size=chosen.patch_size,
            target=chosen.target,
            encoder_mask_tokens=chosen.encoder_mask_tokens,
            decoder_keep=options.decoder_keep,
        )
        if options.frames == 1:
            return MaskedAutoencoder(design)
        clip = {name: getattr(options, name) for name in ClipDesign.__dataclass_fields__}
        return VideoMaskedAutoencoder(design, ClipDesign(**clip))

    def example_input(self, batch_size: int) -> dict[str, Tensor]:
        """Images (B, C, H, W) or clips (B, T, C, H, W), and noise enough for the smallest patches."""
        options = self.options
        frames = () if options.frames == 1 else (options.frames,)
        shape = (*frames, options.in_channels, options.image_size, options.image_size)
        return {"images": torch.randn(batch_size, *shape), "noise": torch.rand(batch_size, self.most_tokens)}

    @property
    def most_tokens(self) -> int:
        """Tokens of a sample at the smallest patches."""
        return self._time * (self.options.image_size // min(self._patches)) ** 2

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int:
        """See `naslab.search_spaces.mae.costs`."""
        with torch.device("meta"):
            return forward_flops(self.build(configuration), batch_size)

    def _check_options(self) -> None:
        options, encoder = self.options, self.encoder
        encoder.check("space.options.width")
        if options.published_patch not in self._patches:
            allowed = ", ".join(map(str, self._patches)) or "another image_size: no patch divides this one"
            raise InputError(
                f"space.options.published_patch: {options.published_patch} does not divide the image's "
                f"{options.image_size} pixels into 4 patches or more; use {allowed}"
            )
        depth, width = options.published_decoder
        if width % options.decoder_heads or width % 4 or not 1 <= depth <= 12:
            raise InputError(
                f"space.options.published_decoder: {depth} blocks of width {width} do not fit; use 1 to 12 blocks and "
                f"a width divisible by 4 and by {options.decoder_heads} heads"
            )
        if options.frames > 1 and options.frames % options.tubelet:
            raise InputError(
                f"space.options.frames: {options.frames} is not divisible by the {options.tubelet} of a tubelet"
            )
        if options.frames == options.tubelet and options.clip_mask == "tube":
            raise InputError("space.options.clip_mask: with one tubelet a clip nothing runs through time; use agnostic")

    @property
    def _width_step(self) -> int:
        return math.lcm(self.options.decoder_heads, 4)

    @property
    def _patches(self) -> tuple[int, ...]:
        """Sides of patches of which there are at least four."""
        side = self.options.image_size
        return tuple(p for p in range(SMALLEST_PATCH, side // 2 + 1) if side % p == 0)

    def _patch_parameter(self) -> Categorical:
        side = self.options.image_size
        meaning = f"a size that divides the {side}-pixel image:"
        proposed = tuple(p for p in self._patches if p <= LARGEST_PATCH and (side // p) ** 2 >= FEWEST_TOKENS)
        reason = "smaller patches are more tokens and a finer target; MAE has 16 at 224 pixels, 14 for ViT-H"
        return Categorical("patch_size", self._patches, proposed, meaning, reason=reason)

    @property
    def _kinds(self) -> tuple[Kind, ...]:
        if self.options.frames == 1:
            return "random", "block", "grid"
        return ("agnostic", "tube") if self._time > 1 else ("agnostic",)

    @property
    def _time(self) -> int:
        return 1 if self.options.frames == 1 else self.options.frames // self.options.tubelet

    def _masking(self, chosen: Chosen) -> Masking:
        side = self.options.image_size // chosen.patch_size
        return Masking(chosen.mask, chosen.masking_ratio, (self._time, side, side))
