"""BERT under any attention mask, its layers divided: the first on text alone, the last with cross-attention.

The division is ALBEF's and Singularity's (nine and three layers of BERT-base). Built from a configuration, or loaded
from a pre-trained BERT by name or path, whose last layers then get new cross-attention.

Names: B texts, L tokens, N tokens of what the texts look at, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer, BertOnlyMLMHead

from naslab.errors import InputError
from naslab.search_spaces.data.packages import cannot_load, model_folder


class DividedBert(nn.Module):
    """BERT's embeddings and layers, the last `fusing` of them with cross-attention, and its head for masked words.

    Args:
        config: of the whole BERT; see `bert_config` and `pretrained_config`.
        seen_width: of the tokens that the fusing layers look at; brought to BERT's width where it is another.
        pretrained: a BERT of that configuration to take the weights from.
    """

    def __init__(
        self,
        config: BertConfig,
        fusing: int,
        seen_width: int,
        words_head: bool,
        pretrained: BertForMaskedLM | None = None,
    ) -> None:
        super().__init__()
        self.pad, width = config.pad_token_id or 0, config.hidden_size
        seeing = BertConfig.from_dict({**config.to_dict(), "is_decoder": True, "add_cross_attention": True})
        seeing._attn_implementation = config._attn_implementation = "sdpa"
        self.embeddings = BertEmbeddings(config)
        self.text_layers = nn.ModuleList(BertLayer(config, i) for i in range(config.num_hidden_layers - fusing))
        self.fusion_layers = nn.ModuleList(BertLayer(seeing, i) for i in range(fusing))
        layer: Any
        for layer in self.fusion_layers:
            layer.attention.self.is_causal = False
        self.see: nn.Module = nn.Identity() if seen_width == width else nn.Linear(seen_width, width)
        self.words = BertOnlyMLMHead(config) if words_head else None
        self.apply(lambda module: _initialise(module, config.initializer_range))
        if pretrained is not None:
            self._load(pretrained)
        if self.words is not None:
            self.words.predictions.decoder.weight = self.embeddings.word_embeddings.weight
            self.words.predictions.decoder.bias = self.words.predictions.bias

    def encode(self, ids_BL: Tensor, mask_B1LL: Tensor | None = None) -> Tensor:
        """Texts to states (B, L, D); the class token's, at 0, stands for the text.

        Args:
            mask_B1LL: which tokens (last) each token attends to, True or False, by head or for all; None: all but
                padding.
        """
        x: Tensor = self.embeddings(ids_BL)
        attended = self._unpadded(ids_BL) if mask_B1LL is None else mask_B1LL
        for layer in self.text_layers:
            x = layer(x, attended)
        return x

    def fuse(self, text_BLD: Tensor, ids_BL: Tensor, seen_BND: Tensor) -> Tensor:
        """Encoded texts that look at other tokens, all of them, (B, L, D); of the texts at all but padding."""
        seen, attended = self.see(seen_BND), self._unpadded(ids_BL)
        for layer in self.fusion_layers:
            text_BLD = layer(text_BLD, attended, seen)
        return text_BLD

    def _unpadded(self, ids_BL: Tensor) -> Tensor:
        kept = ids_BL.ne(self.pad)
        return kept[:, None, None].expand(-1, 1, ids_BL.shape[1], -1)

    def _load(self, pretrained: Any) -> None:
        self.embeddings.load_state_dict(pretrained.bert.embeddings.state_dict())
        layers = [*self.text_layers, *self.fusion_layers]
        for ours, theirs in zip(layers, pretrained.bert.encoder.layer, strict=True):
            ours.load_state_dict(theirs.state_dict(), strict=False)
        if self.words is not None:
            self.words.load_state_dict(pretrained.cls.state_dict())


FEWEST_POSITIONS = 512
"""Of a fresh BERT, so that what is fine-tuned from it may read longer texts."""


def bert_config(
    *, vocabulary: int, width: int, layers: int, heads: int, positions: int, pad: int, dropout: float, hidden: int = 0
) -> BertConfig:
    """The configuration of a fresh BERT for texts of up to `positions` tokens.

    Weights start with Xavier's deviation, 1/sqrt(width) (BERT has .02 at width 768): with less, what fusion layers see
    is lost beside the text for the first thousand steps.

    Args:
        hidden: width inside an MLP; 0: four times the width.
    """
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=hidden or 4 * width,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=positions,
        pad_token_id=pad,
        initializer_range=width**-0.5,
    )


def pretrained_config(name: str, where: str = "space.options.text_model") -> BertConfig:
    """The configuration of a pre-trained BERT, from the hub or a folder.

    Raises:
        InputError: there is none, it is no BERT, or a BERT whose tokens see only those before them.
    """
    try:
        config = BertConfig.from_pretrained(model_folder(name))
    except (OSError, ValueError) as error:
        raise cannot_load(where, name, error) from None
    if config.model_type != "bert":
        raise InputError(f"{where}: {name!r} is a {config.model_type}, not a bert")
    if config.is_decoder:
        raise InputError(f"{where}: {name!r} is a decoder, whose tokens see none behind them; use a BERT encoder")
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    if kind != "absolute":
        raise InputError(f"{where}: {name!r} has {kind} positions, which BERT in transformers no longer has")
    return config


def _initialise(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
