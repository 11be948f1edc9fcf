"""A SMAUG configuration: what is masked, dropped and selected, and the weight of each loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from naslab.search_spaces.common.counts import visible_tokens
from naslab.search_spaces.common.modules.tokens import Reduction, layers_at
from naslab.search_spaces.common.modules.top_k import Estimator

Selection = Literal["before", "after"]
Layers = Literal["quarters", "half", "first_quarter"]
LAYERS: dict[Layers, tuple[int, ...]] = {"quarters": (1, 2, 3), "half": (2,), "first_quarter": (1,)}
"""Where frames lose tokens: after how many quarters of the depth."""


@dataclass(frozen=True)
class Design:
    """The parameters of the space, and what follows from them; the defaults are the most probable published setting."""

    visual_masking_ratio: float = 0.65
    text_masking_ratio: float = 0.5
    text_masking: Literal["separate", "joint"] = "separate"
    keep_rate: float = 0.7
    sparsify_layers: Layers = "quarters"
    rule: Literal["evit", "tome"] = "evit"
    fuse: bool = True
    frames: int = 4
    frames_kept: int = 2
    selection: Selection = "after"
    estimator: Estimator = "straight_through"
    vtc_weight: float = 1.0
    vtm_weight: float = 1.0
    mlm_weight: float = 1.0
    mvm_weight: float = 1.0
    qa_weight: float = 1.0
    decoder_depth: int = 1

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

    def reduction(self, depth: int) -> Reduction:
        """How an image encoder of `depth` blocks loses tokens; never in the first."""
        layers = layers_at(depth, 4, LAYERS[self.sparsify_layers])
        if self.keep_rate == 1 or not layers:
            return Reduction()
        return Reduction(self.rule, layers, self.keep_rate, self.fuse)
