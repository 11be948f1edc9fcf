"""transformers' BERT with its head for masked words: fresh, or from the hub or a folder, cut to its first layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from transformers import BertConfig, BertForMaskedLM

from naslab.errors import InputError
from naslab.search_spaces.common import costs
from naslab.search_spaces.common.modules.bert import bert_config, pretrained_config
from naslab.search_spaces.common.modules.pretrained import read_pretrained
from naslab.search_spaces.data.text import TextTokenizer

HEAD = "cls."
"""What names of the head's weights begin with."""


@dataclass(frozen=True)
class BertSizes:
    """Of a BERT; `hidden` is the width inside an MLP, `positions` the longest text."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int
    dropout: float = 0.0

    @classmethod
    def of(cls, config: BertConfig) -> Self:
        """Of a pre-trained BERT."""
        return cls(
            config.vocab_size,
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.intermediate_size,
            config.max_position_embeddings,
            config.hidden_dropout_prob,
        )

    def block(self, tokens: int) -> int:
        """Multiply-adds of a layer."""
        return costs.block(tokens, self.width, self.hidden)

    def head(self, tokens: int) -> int:
        """Multiply-adds of the head for masked words, which scores every word of the vocabulary."""
        return costs.linear(tokens, self.width, self.width + self.vocabulary)


def fresh_masked_lm(sizes: BertSizes, pad: int = 0, attention: str = "sdpa") -> BertForMaskedLM:
    """A BERT with random weights and the head for masked words.

    Args:
        attention: what transformers knows it by.
    """
    config = bert_config(
        vocabulary=sizes.vocabulary,
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        positions=sizes.positions,
        pad=pad,
        dropout=sizes.dropout,
        hidden=sizes.hidden,
    )
    return BertForMaskedLM._from_config(config, attn_implementation=attention)  # type: ignore[no-any-return]


def load_masked_lm(
    name: str, layers: int | None = None, where: str = "space.options.pretrained", head: bool = True
) -> BertForMaskedLM:
    """A BERT with the head for masked words, on the CPU in float32.

    Args:
        layers: only the first so many layers; None: all.
        head: whether the head is used; if not, the checkpoint may lack it.

    Raises:
        InputError: there is no such model, it is no BERT, it has fewer layers, or its checkpoint lacks a weight: a head
            that is missing would be random without a word, and prompts at chance.
    """
    config = pretrained_config(name, where)
    if layers is not None and layers > config.num_hidden_layers:
        raise InputError(f"{where}: {name} has {config.num_hidden_layers} layers, not {layers}")
    config.num_hidden_layers = layers or config.num_hidden_layers
    model, missing = read_pretrained(BertForMaskedLM, name, where, config=config, attn_implementation="sdpa")
    if not head:
        missing = [key for key in missing if not key.startswith(HEAD)]
    if missing:
        part = "the head for masked words" if all(key.startswith(HEAD) for key in missing) else missing[0]
        raise InputError(
            f"{where}: the checkpoint of {name} lacks {part} ({len(missing)} weights missing); use one that was "
            "saved with it"
        )
    return model  # type: ignore[no-any-return]


def export_masked_lm(bert: BertForMaskedLM, tokenizer: TextTokenizer, folder: Path) -> None:
    """Write a folder that transformers loads: `BertForMaskedLM.from_pretrained`, `AutoTokenizer.from_pretrained`.

    Args:
        tokenizer: that the model was trained with.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        bert.save_pretrained(folder)
        tokenizer.save(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
