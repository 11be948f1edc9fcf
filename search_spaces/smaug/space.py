"""The SMAUG space: how much of frames, text, tokens and time video-language pre-training can leave out.

Lin, Wei, Wang, Yuille, Xie 2023 (ICCV, arXiv 2211.11446). Sizes are options, fixed by the study; what is masked,
dropped and selected is what varies. The paper's own ratios are not public: the reference is the most probable design
(inferred, see docs/smaug.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common.counts import roundest, visible_tokens
from naslab.search_spaces.common.objectives.masked_words import hidden_words
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Value
from naslab.search_spaces.smaug import costs
from naslab.search_spaces.smaug.design import LAYERS, Design, Layers
from naslab.search_spaces.smaug.model import VideoLanguageModel
from naslab.search_spaces.smaug.options import SMAUGOptions
from naslab.search_spaces.space import SearchSpace


class SMAUG(SearchSpace):
    """Masking ratios, token reduction and frame selection of SMAUG."""

    name = "smaug"
    Options = SMAUGOptions
    options: SMAUGOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "image_size": 32, "patch_size": 4, "in_channels": 1, "clip_frames": 8, "reference_frames": 4,
            "width": 64, "depth": 4, "heads": 2, "text_layers": 1, "fusion_layers": 1, "vocabulary": 256,
            "text_tokens": 24, "embedding_width": 32, "decoder_width": 32, "decoder_heads": 2,
            "selector_samples": 100,
        },
        "small": {
            "image_size": 64, "patch_size": 8, "in_channels": 1, "clip_frames": 8, "reference_frames": 4,
            "width": 256, "depth": 8, "heads": 4, "text_layers": 4, "fusion_layers": 2, "vocabulary": 256,
            "text_tokens": 24, "embedding_width": 128, "decoder_width": 128, "decoder_heads": 4,
        },
        "paper": {
            "special": {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}, "answers": 3128,
        },
    }  # fmt: skip

    def __init__(self, options: SMAUGOptions) -> None:
        super().__init__(options)
        self.bert = options.bert()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What is left out, where, and what each loss weighs."""
        weight = "ALBEF and Singularity weigh every loss 1; 0 leaves it out"
        most = self.options.clip_frames
        return (
            Float("visual_masking_ratio", 0.0, 0.9, reason="MAE masks 75 % of an image, its video form 90 %; 0: dense"),
            Float("text_masking_ratio", 0.0, 0.9, reason="BERT masks 15 %, Singularity 50 %, SimVTP 75 %; 0: no MLM"),
            Categorical(
                "text_masking",
                ("separate", "joint"),
                reason="separate: a second, masked pass for MLM (ALBEF); joint: every loss reads the masked text",
            ),
            Float("keep_rate", 0.3, 1.0, reason="EViT keeps .5 to .9, SViTT .7; below .3 three layers leave 3 %"),
            Categorical("sparsify_layers", tuple(LAYERS), reason="quarters: layers 3, 6 and 9 of 12 as EViT and SViTT"),
            Categorical("rule", ("evit", "tome"), reason="by class attention (EViT), or merging the similar (ToMe)"),
            Categorical("fuse", (True, False), reason="EViT fuses dropped tokens into one, SViTT discards them"),
            Integer("frames", 1, most, reason="1 is Singularity's, 4 its temporal stage's; at most a clip's"),
            Integer("frames_kept", 1, most, reason="the figure of the paper keeps 2 of 3; all: no selector"),
            Categorical(
                "selection",
                ("after", "before"),
                reason="after encoding saves fusion alone, before it saves the encoder too",
            ),
            Categorical(
                "estimator",
                ("straight_through", "perturbed"),
                reason="Gumbel straight-through (DynamicViT) or perturbed top-k (STTS)",
            ),
            Float("vtc_weight", 0.0, 4.0, reason=weight),
            Float("vtm_weight", 0.0, 4.0, reason=weight),
            Float("mlm_weight", 0.0, 4.0, reason=weight),
            Float("mvm_weight", 0.0, 4.0, reason=weight),
            Float("qa_weight", 0.0, 4.0, reason="question answering trained along; 0 builds no head"),
            Integer("decoder_depth", 1, 8, reason="MAE: 1 block is enough for fine-tuning, 8 eat most of the gain"),
        )

    @property
    def reference(self) -> Configuration:
        """The most probable published setting (inferred): masks .65 and .5, keep .7 thrice, half of the frames."""
        frames = min(self.options.reference_frames or 4, self.options.clip_frames)
        depth = self.options.reference_decoder_depth
        return self.configuration(asdict(Design(frames=frames, frames_kept=max(1, frames // 2), decoder_depth=depth)))

    @property
    def published(self) -> Mapping[str, Configuration]:
        """The same model without masking and sparsification, and Singularity's single frame."""
        reference = self.reference.as_dict()
        dense = {**reference, "visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames_kept": reference["frames"]}
        return {
            "dense": self.configuration(dense),
            "singularity": self.configuration({**dense, "frames": 1, "frames_kept": 1}),
        }

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """One value for all that build the same function: round shares of equal counts, and what does not matter.

        Raises:
            InputError: no patch is left visible, more frames kept than there are, or no loss at all.
        """
        self._check(into(values, Design))
        values |= self._rounded(into(values, Design))
        design = into(values, Design)
        if not self.options.answers:
            values["qa_weight"] = 1.0
        if not design.models_words:
            values |= {"text_masking_ratio": 0.0, "text_masking": "separate", "mlm_weight": 1.0}
        if not design.models_pixels:
            values["decoder_depth"] = 1
        if design.visual_masking_ratio == 0:
            values["mvm_weight"] = 1.0
        if design.keep_rate == 1:
            values |= {"sparsify_layers": "quarters", "rule": "evit", "fuse": True}
        elif design.rule == "tome":
            values["fuse"] = True
        if not design.selects:
            values |= {"selection": "after", "estimator": "straight_through"}
        return values

    def _check(self, design: Design) -> None:
        patches = self.options.patches
        if design.frames_kept > design.frames:
            raise InputError(
                f"frames_kept: {design.frames_kept} is more than the {design.frames} frames; use 1 to {design.frames}"
            )
        if design.visible(patches) < 1:
            raise InputError(
                f"visual_masking_ratio: {design.visual_masking_ratio:g} leaves none of the {patches} patches of a "
                "frame visible"
            )
        if design.rule == "tome" and design.keep_rate < 0.5:
            raise InputError(
                f"keep_rate: {design.keep_rate:g} is not possible with ToMe, which merges at most half of the tokens "
                "at a layer; use 0.5 to 1"
            )
        answering = design.qa_weight if self.options.answers else 0
        if not any((design.vtc_weight, design.vtm_weight, answering)):
            raise InputError(
                "vtc_weight, vtm_weight, qa_weight: all 0 (or no answers), so nothing joins video and text; raise one"
            )

    def _rounded(self, design: Design) -> dict[str, Value]:
        """The roundest masking ratios and keep rate of the same counts, and the first name of the same layers."""
        options, patches = self.options, self.options.patches
        words = torch.arange(1, options.text_tokens - 1, device="cpu")

        def hidden(ratio: float) -> tuple[bool, list[float]]:
            return ratio > 0, hidden_words(words, ratio).tolist()

        def dropped(rate: float, layers: Layers = design.sparsify_layers) -> list[tuple[int, ...]]:
            reduction = replace(design, keep_rate=rate, sparsify_layers=layers).reduction(options.depth)
            return [reduction.signature(free, options.depth) for free in (design.visible(patches), patches)]

        now, masked = dropped(design.keep_rate), patches - design.visible(patches)
        longest = hidden(design.text_masking_ratio)[1][-1] if design.text_masking_ratio else 0
        width, word = 1 / patches, 1 / len(words)
        return {
            "visual_masking_ratio": roundest(
                design.visual_masking_ratio, lambda r: visible_tokens(patches, r), masked / patches, width
            ),
            "text_masking_ratio": roundest(design.text_masking_ratio, hidden, longest * word, word),
            "sparsify_layers": next(name for name in LAYERS if dropped(design.keep_rate, name) == now),
            # The first block that drops has the most tokens, and so drops the most.
            "keep_rate": roundest(design.keep_rate, dropped, 1 - max(now[1]) / patches, width),
        }

    def build(self, configuration: Configuration) -> VideoLanguageModel:
        """Encoders, fusion and losses of the configuration."""
        return VideoLanguageModel(self.options, self.bert, configuration.into(Design))

    def example_input(self, batch_size: int) -> Inputs:
        """A pre-training batch with all frames of a clip, of which each model takes its own; see SearchSpace."""
        options, frames = self.options, self.options.clip_frames
        words = options.special.words(torch.rand(batch_size, options.text_tokens), self.bert.vocab_size)
        return {
            "frames": torch.randn(batch_size, frames, options.in_channels, options.image_size, options.image_size),
            "text_ids": words,
            "visual_noise": torch.rand(batch_size, frames, options.patches),
            "text_noise": torch.rand(batch_size, options.text_tokens, 3),
            "negative_noise": torch.rand(batch_size, 2),
        }

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int:
        """See `naslab.search_spaces.smaug.costs`; questions, which are trained along, are no part of it."""
        return costs.forward_flops(self.options, self.bert, configuration.into(Design), batch_size)
