"""What a study fixes of a SMAUG model: the sizes of its parts and of what they take."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import Field, model_validator
from transformers import BertConfig

from naslab.errors import InputError
from naslab.search_spaces.common.modules.bert import FEWEST_POSITIONS, bert_config, pretrained_config
from naslab.search_spaces.common.modules.language_models import check_positions
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.options import Network, Options
from naslab.search_spaces.parameters import Unless, When

OWN_TEXT = When("text_model", (None,))
SELECTED = Unless("clip_frames", (1,))


class SMAUGOptions(Options):
    """What a study fixes."""

    image_size: int = Field(224, ge=8)
    patch_size: int = Field(16, ge=1)
    in_channels: int = Field(3, ge=1)
    clip_frames: int = Field(4, ge=1)
    """Frames that a clip of the data has; `frames` of a configuration cannot be more."""
    reference_frames: int | None = Field(None, ge=1)
    """Frames of the reference; None: 4, or as many as a clip has."""
    reference_decoder_depth: int = Field(1, ge=1, le=8)
    width: int = Field(768, ge=8)
    depth: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    text_width: Annotated[int | None, OWN_TEXT] = Field(None, ge=8)
    """None: the image encoder's width."""
    text_layers: Annotated[int, OWN_TEXT] = Field(9, ge=1)
    fusion_layers: int = Field(3, ge=1)
    text_heads: Annotated[int | None, OWN_TEXT] = Field(None, ge=1)
    vocabulary: Annotated[int, OWN_TEXT] = Field(30522, ge=10)
    text_tokens: int = Field(32, ge=4)
    """Length of texts, special tokens included; longer ones are cut."""
    special: SpecialIds = Field(default_factory=SpecialIds)
    """Numbers of the special tokens; the defaults are those of the tokenizer that the task trains."""
    embedding_width: int = Field(256, ge=2)
    decoder_width: int = Field(512, ge=8)
    decoder_heads: int = Field(16, ge=1)
    answers: int = Field(64, ge=0)
    """Answers that the question head can tell apart, at least as many as the data has; 0: no head."""
    dropout: float = Field(0.0, ge=0, lt=1)
    selector_samples: Annotated[int, SELECTED] = Field(500, ge=1)
    """Noise samples of the `perturbed` estimator; they do nothing to configurations with the other."""
    selector_sigma: Annotated[float, SELECTED] = Field(0.1, gt=0)
    """Deviation of that noise."""
    text_model: Annotated[str | None, Network()] = None
    """A pre-trained BERT by name or path, which brings the sizes of the text."""

    @property
    def patches(self) -> int:
        """Patches of a frame, L."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_values(self) -> int:
        """Values of a patch, P."""
        return self.patch_size**2 * self.in_channels

    def bert(self) -> BertConfig:
        """The text encoder and the fusion layers in one.

        Raises:
            InputError: `text_model` cannot be loaded, or has too few layers or positions.
        """
        if self.text_model is None:
            return bert_config(
                vocabulary=self.vocabulary,
                width=self.text_width or self.width,
                layers=self.text_layers + self.fusion_layers,
                heads=self.text_heads or self.heads,
                positions=max(FEWEST_POSITIONS, self.text_tokens),
                pad=self.special.pad,
                dropout=self.dropout,
            )
        config = pretrained_config(self.text_model)
        check_positions(config, self.text_tokens, "space.options.text_tokens", self.text_model)
        config.pad_token_id = self.special.pad
        if config.num_hidden_layers <= self.fusion_layers:
            raise InputError(
                f"space.options.fusion_layers: {self.fusion_layers} leave no text layer of the "
                f"{config.num_hidden_layers} of {self.text_model}"
            )
        return config

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
        for name in ("width", "decoder_width"):
            if getattr(self, name) % 4:
                raise ValueError(f"{name} {getattr(self, name)} is not divisible by 4, as the positions need")
        if not self.special.fit(self.vocabulary):
            raise ValueError(
                f"special tokens {asdict(self.special)} must differ and leave words in a vocabulary of "
                f"{self.vocabulary}"
            )
        return self
