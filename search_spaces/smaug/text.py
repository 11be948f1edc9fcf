"""Text encoder and fusion: the layers of one BERT, the first on text alone, the last with cross-attention to frames.

The division is ALBEF's and Singularity's (nine and three layers of BERT-base). Built from a configuration, or loaded
from a pre-trained BERT by name or path, whose last layers then get new cross-attention.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertOnlyMLMHead

from naslab.efficiency.errors import InputError
from naslab.search_spaces.smaug.settings import Sizes


class TextModel(nn.Module):
    """BERT's embeddings and layers, divided, with its head for masked words."""

    def __init__(self, sizes: Sizes, words_head: bool) -> None:
        super().__init__()
        self.pad = sizes.special.pad
        config = bert_config(sizes)
        fusing = BertConfig.from_dict({**config.to_dict(), "is_decoder": True, "add_cross_attention": True})
        fusing._attn_implementation = config._attn_implementation = "sdpa"
        self.embeddings = BertEmbeddings(config)
        self.text_layers = nn.ModuleList(BertLayer(config, i) for i in range(sizes.text_layers))
        self.fusion_layers = nn.ModuleList(BertLayer(fusing, i) for i in range(sizes.fusion_layers))
        layer: Any
        for layer in self.fusion_layers:
            layer.attention.self.is_causal = False
        self.see: nn.Module = nn.Identity()
        if sizes.width != sizes.text_width:
            self.see = nn.Linear(sizes.width, sizes.text_width)
        self.words = BertOnlyMLMHead(config) if words_head else None
        self.apply(lambda module: _initialise(module, config.initializer_range))
        if sizes.text_model is not None:
            self._load(sizes)
        if self.words is not None:
            self.words.predictions.decoder.weight = self.embeddings.word_embeddings.weight
            self.words.predictions.decoder.bias = self.words.predictions.bias

    def encode(self, ids_BL: Tensor) -> Tensor:
        """Texts to states (B, L, D); the class token's, at 0, stands for the text."""
        x: Tensor = self.embeddings(ids_BL)
        attended = self._attended(ids_BL)
        for layer in self.text_layers:
            x = layer(x, attended)
        return x

    def fuse(self, text_BLD: Tensor, ids_BL: Tensor, visual_BND: Tensor) -> Tensor:
        """Encoded texts that look at the tokens of their videos, (B, L, D)."""
        seen, attended = self.see(visual_BND), self._attended(ids_BL)
        for layer in self.fusion_layers:
            text_BLD = layer(text_BLD, attended, seen)
        return text_BLD

    def _attended(self, ids_BL: Tensor) -> Tensor:
        return (ids_BL != self.pad)[:, None, None].expand(-1, 1, ids_BL.shape[1], -1)

    def _load(self, sizes: Sizes) -> None:
        try:
            pretrained: Any = BertForMaskedLM.from_pretrained(sizes.text_model)
        except (OSError, ValueError) as error:
            raise InputError(f"space.text_model: cannot load {sizes.text_model!r}: {_line(error)}") from None
        self.embeddings.load_state_dict(pretrained.bert.embeddings.state_dict())
        layers = [*self.text_layers, *self.fusion_layers]
        for ours, theirs in zip(layers, pretrained.bert.encoder.layer, strict=True):
            ours.load_state_dict(theirs.state_dict(), strict=False)
        if self.words is not None:
            self.words.load_state_dict(pretrained.cls.state_dict())


def bert_config(sizes: Sizes) -> BertConfig:
    """The configuration of a BERT of the given sizes.

    Weights start with Xavier's deviation, 1/sqrt(width) (BERT has .02 at width 768): with less, what fusion layers see
    of the frames is lost beside the text for the first thousand steps.
    """
    if sizes.text_model is not None:
        return pretrained_config(sizes.text_model)
    return BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.text_width,
        num_hidden_layers=sizes.text_layers + sizes.fusion_layers,
        num_attention_heads=sizes.text_heads,
        intermediate_size=4 * sizes.text_width,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=sizes.dropout,
        max_position_embeddings=max(512, sizes.text_tokens),
        pad_token_id=sizes.special.pad,
        initializer_range=sizes.text_width**-0.5,
    )


def pretrained_config(name: str) -> BertConfig:
    """The configuration of a pre-trained BERT, from the hub or a folder.

    Raises:
        InputError: there is none, or it is no BERT.
    """
    try:
        config = BertConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"space.text_model: cannot load {name!r}: {_line(error)}") from None
    if config.model_type != "bert":
        raise InputError(f"space.text_model: {name!r} is a {config.model_type}, not a bert")
    return config


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _initialise(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
