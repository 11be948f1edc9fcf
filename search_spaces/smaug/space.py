"""The SMAUG space: how much of frames, text, tokens and time video-language pre-training can leave out.

Lin, Wei, Wang, Yuille, Xie 2023 (ICCV, arXiv 2211.11446). Sizes are options, fixed by the study; what is masked,
dropped and selected is what varies. The paper's own ratios are not public: the reference is the most probable design
(inferred, see docs/smaug.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from pydantic import Field, model_validator
from torch import nn

from naslab.efficiency.errors import InputError
from naslab.efficiency.inputs import Inputs
from naslab.search_spaces.common.modules.tokens import Reduction
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Value
from naslab.search_spaces.smaug import cost
from naslab.search_spaces.smaug.model import SMAUG
from naslab.search_spaces.smaug.settings import Settings, Sizes
from naslab.search_spaces.smaug.text import pretrained_config
from naslab.search_spaces.space import SearchSpace

LAYERS = ("quarters", "half", "first_quarter")


class SpecialOptions(Options):
    """Numbers of the special tokens; the defaults are those of the tokenizer that the task trains."""

    pad: int = Field(0, ge=0)
    cls: int = Field(1, ge=0)
    sep: int = Field(2, ge=0)
    mask: int = Field(3, ge=0)
    unk: int = Field(4, ge=0)


class SMAUGOptions(Options):
    """What a study fixes."""

    image_size: int = Field(224, ge=8)
    patch_size: int = Field(16, ge=1)
    channels: int = Field(3, ge=1)
    clip_frames: int = Field(4, ge=1)
    """Frames that a clip of the data has; `frames` of a configuration cannot be more."""
    reference_frames: int | None = Field(None, ge=1)
    """Frames of the reference; None: 4, or as many as a clip has."""
    reference_decoder_depth: int = Field(1, ge=1, le=8)
    width: int = Field(768, ge=8)
    depth: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    text_width: int | None = Field(None, ge=8)
    """None: the image encoder's width."""
    text_layers: int = Field(9, ge=1)
    fusion_layers: int = Field(3, ge=1)
    text_heads: int | None = Field(None, ge=1)
    vocabulary: int = Field(30522, ge=10)
    text_tokens: int = Field(32, ge=4)
    """Length of texts, special tokens included; longer ones are cut."""
    special: SpecialOptions = SpecialOptions()
    embedding_width: int = Field(256, ge=2)
    decoder_width: int = Field(512, ge=8)
    decoder_heads: int = Field(16, ge=1)
    answers: int = Field(64, ge=0)
    """Answers that the question head can tell apart, at least as many as the data has; 0: no head."""
    dropout: float = Field(0.0, ge=0, lt=1)
    selector_samples: int = Field(500, ge=1)
    selector_sigma: float = Field(0.1, gt=0)
    text_model: str | None = None
    """A pre-trained BERT by name or path; its sizes replace those of the text."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> SMAUGOptions:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        text_width = self.text_width or self.width
        pairs = {
            "heads": (self.width, self.heads),
            "text_heads": (text_width, self.text_heads or self.heads),
            "decoder_heads": (self.decoder_width, self.decoder_heads),
        }
        for name, (width, heads) in pairs.items():
            if width % heads:
                raise ValueError(f"{name} {heads} does not divide a width of {width}")
        special = self.special.model_dump()
        if len(set(special.values())) < len(special) or max(special.values()) + 1 >= self.vocabulary:
            raise ValueError(
                f"special tokens {special} must differ and leave words in a vocabulary of {self.vocabulary}"
            )
        return self


class SMAUGSpace(SearchSpace):
    """Masking ratios, sparsification and frame selection of SMAUG."""

    name = "smaug"
    Options = SMAUGOptions
    options: SMAUGOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "image_size": 32, "patch_size": 4, "channels": 1, "clip_frames": 8, "reference_frames": 4,
            "width": 64, "depth": 4, "heads": 2, "text_layers": 1, "fusion_layers": 1, "vocabulary": 256,
            "text_tokens": 24, "embedding_width": 32, "decoder_width": 32, "decoder_heads": 2,
            "selector_samples": 100,
        },
        "small": {
            "image_size": 64, "patch_size": 8, "channels": 1, "clip_frames": 8, "reference_frames": 4,
            "width": 256, "depth": 8, "heads": 4, "text_layers": 4, "fusion_layers": 2, "vocabulary": 256,
            "text_tokens": 24, "embedding_width": 128, "decoder_width": 128, "decoder_heads": 4,
        },
        "paper": {
            "special": {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}, "answers": 3128,
        },
    }  # fmt: skip

    def __init__(self, options: SMAUGOptions) -> None:
        super().__init__(options)
        text_width, text_layers = options.text_width or options.width, options.text_layers
        text_heads, vocabulary = options.text_heads or options.heads, options.vocabulary
        if options.text_model is not None:
            bert = pretrained_config(options.text_model)
            text_width, text_heads, vocabulary = bert.hidden_size, bert.num_attention_heads, bert.vocab_size
            text_layers = bert.num_hidden_layers - options.fusion_layers
            if text_layers < 1:
                raise InputError(
                    f"space.fusion_layers: {options.fusion_layers} leave no text layer of the "
                    f"{bert.num_hidden_layers} of {options.text_model}"
                )
        self.sizes = Sizes(
            image_size=options.image_size,
            patch_size=options.patch_size,
            channels=options.channels,
            width=options.width,
            depth=options.depth,
            heads=options.heads,
            text_width=text_width,
            text_layers=text_layers,
            fusion_layers=options.fusion_layers,
            text_heads=text_heads,
            vocabulary=vocabulary,
            text_tokens=options.text_tokens,
            embedding_width=options.embedding_width,
            decoder_width=options.decoder_width,
            decoder_heads=options.decoder_heads,
            answers=options.answers,
            special=SpecialIds(**options.special.model_dump()),
            dropout=options.dropout,
            samples=options.selector_samples,
            sigma=options.selector_sigma,
            text_model=options.text_model,
        )

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
            Categorical("sparsify_layers", LAYERS, reason="quarters: layers 3, 6 and 9 of 12 as EViT and SViTT"),
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
        return self.configuration(
            {
                "visual_masking_ratio": 0.65,
                "text_masking_ratio": 0.5,
                "text_masking": "separate",
                "keep_rate": 0.7,
                "sparsify_layers": "quarters",
                "rule": "evit",
                "fuse": True,
                "frames": frames,
                "frames_kept": max(1, frames // 2),
                "selection": "after",
                "estimator": "straight_through",
                "vtc_weight": 1.0,
                "vtm_weight": 1.0,
                "mlm_weight": 1.0,
                "mvm_weight": 1.0,
                "qa_weight": 1.0,
                "decoder_depth": self.options.reference_decoder_depth,
            }
        )

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
        """Refuse what leaves nothing; give what does not matter one value.

        Raises:
            InputError: no patch is left visible, more frames kept than there are, or no loss at all.
        """
        frames, kept = _integer(values["frames"]), _integer(values["frames_kept"])
        if kept > frames:
            raise InputError(f"frames_kept: {kept} is more than the {frames} frames; use 1 to {frames}")
        settings = self._settings(values)
        ratio = settings.visual_masking_ratio
        if settings.visible(self.sizes.patches) < 1:
            raise InputError(
                f"visual_masking_ratio: {ratio:g} leaves none of the {self.sizes.patches} patches of a frame visible"
            )
        if settings.reduction.rule == "tome" and settings.reduction.keep_rate < 0.5:
            raise InputError(
                f"keep_rate: {settings.reduction.keep_rate:g} is not possible with ToMe, which merges at most half of "
                "the tokens at a layer; use 0.5 to 1"
            )
        if not any(_number(values[f"{name}_weight"]) for name in ("vtc", "vtm", "qa")):
            raise InputError("vtc_weight, vtm_weight, qa_weight: all 0, so nothing joins video and text; raise one")
        unused: dict[str, Value] = {}
        if not settings.models_words:
            unused |= {"text_masking_ratio": 0.0, "text_masking": "separate", "mlm_weight": 1.0}
        if not settings.models_pixels:
            unused |= {"decoder_depth": 1}
        if ratio == 0:
            unused |= {"mvm_weight": 1.0}
        if settings.reduction.keep_rate == 1:
            unused |= {"sparsify_layers": "quarters", "rule": "evit", "fuse": True}
        elif settings.reduction.rule == "tome":
            unused |= {"fuse": True}
        if not settings.selects:
            unused |= {"selection": "after", "estimator": "straight_through"}
        return values | unused

    def settings(self, configuration: Configuration) -> Settings:
        """The configuration as typed values."""
        return self._settings(dict(configuration))

    def _settings(self, values: Mapping[str, Value]) -> Settings:
        keep_rate = _number(values["keep_rate"])
        layers = _layers(str(values["sparsify_layers"]), self.options.depth) if keep_rate < 1 else ()
        return Settings(
            visual_masking_ratio=_number(values["visual_masking_ratio"]),
            text_masking_ratio=_number(values["text_masking_ratio"]),
            text_masking=cast(Any, values["text_masking"]),
            reduction=Reduction(cast(Any, values["rule"]), layers, keep_rate, bool(values["fuse"])),
            frames=_integer(values["frames"]),
            frames_kept=_integer(values["frames_kept"]),
            selection=cast(Any, values["selection"]),
            estimator=cast(Any, values["estimator"]),
            vtc_weight=_number(values["vtc_weight"]),
            vtm_weight=_number(values["vtm_weight"]),
            mlm_weight=_number(values["mlm_weight"]),
            mvm_weight=_number(values["mvm_weight"]),
            qa_weight=_number(values["qa_weight"]),
            decoder_depth=_integer(values["decoder_depth"]),
        )

    def build(self, configuration: Configuration) -> nn.Module:
        """Encoders, fusion and losses of the configuration."""
        return SMAUG(self.sizes, self.settings(configuration))

    def example_input(self, batch_size: int) -> Inputs:
        """A pre-training batch with all frames of a clip, of which each model takes its own; see SearchSpace."""
        options, frames = self.options, self.options.clip_frames
        first = self.sizes.special.first_word
        words = torch.randint(first, self.sizes.vocabulary, (batch_size, options.text_tokens))
        return {
            "frames": torch.randn(batch_size, frames, options.channels, options.image_size, options.image_size),
            "text_ids": words,
            "visual_noise": torch.rand(batch_size, frames, self.sizes.patches),
            "text_noise": torch.rand(batch_size, options.text_tokens, 3),
            "negative_noise": torch.rand(batch_size, 2),
        }

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int:
        """See `naslab.search_spaces.smaug.cost`; questions, which are trained along, are no part of it."""
        return cost.forward_flops(self.sizes, self.settings(configuration), batch_size)


def _layers(name: str, depth: int) -> tuple[int, ...]:
    """0-based layers at a quarter, half and three quarters of the depth; never the first."""
    shares = {"quarters": (1, 2, 3), "half": (2,), "first_quarter": (1,)}[name]
    return tuple(sorted({max(1, share * depth // 4) for share in shares} & set(range(depth))))


def _number(value: Value) -> float:
    return float(cast(float, value))


def _integer(value: Value) -> int:
    return int(cast(int, value))
