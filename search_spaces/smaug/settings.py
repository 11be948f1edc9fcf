"""What a configuration and a study's options fix of a SMAUG model, as plain typed values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from naslab.search_spaces.common.counts import visible_tokens
from naslab.search_spaces.common.modules.tokens import Reduction
from naslab.search_spaces.data.text import SpecialIds

Selection = Literal["before", "after"]
Estimator = Literal["straight_through", "perturbed"]
TextMasking = Literal["separate", "joint"]


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of the parts, and what they take."""

    image_size: int
    patch_size: int
    channels: int
    width: int
    depth: int
    heads: int
    text_width: int
    text_layers: int
    fusion_layers: int
    text_heads: int
    vocabulary: int
    text_tokens: int
    embedding_width: int
    decoder_width: int
    decoder_heads: int
    answers: int
    special: SpecialIds = field(default_factory=SpecialIds)
    dropout: float = 0.0
    samples: int = 500
    sigma: float = 0.1
    text_model: str | None = None

    @property
    def patches(self) -> int:
        """Patches of a frame, L."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_values(self) -> int:
        """Values of a patch, P."""
        return self.patch_size**2 * self.channels


@dataclass(frozen=True)
class Settings:
    """What a configuration decides."""

    visual_masking_ratio: float
    text_masking_ratio: float
    text_masking: TextMasking
    reduction: Reduction
    frames: int
    frames_kept: int
    selection: Selection
    estimator: Estimator
    vtc_weight: float
    vtm_weight: float
    mlm_weight: float
    mvm_weight: float
    qa_weight: float
    decoder_depth: int

    @property
    def selects(self) -> bool:
        """Whether there is a frame selector."""
        return self.frames_kept < self.frames

    @property
    def models_words(self) -> bool:
        """Whether there is a masked-language loss."""
        return self.text_masking_ratio > 0 and self.mlm_weight > 0

    @property
    def models_pixels(self) -> bool:
        """Whether there is a masked-visual loss, and so a decoder."""
        return self.visual_masking_ratio > 0 and self.mvm_weight > 0

    @property
    def encoded_frames(self) -> int:
        """Frames that go through the image encoder in training."""
        return self.frames_kept if self.selection == "before" else self.frames

    def visible(self, patches: int) -> int:
        """Patches of a frame that masking leaves."""
        return visible_tokens(patches, self.visual_masking_ratio)
