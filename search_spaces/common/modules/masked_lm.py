"""transformers' BERT with its head for masked words: fresh, or from the hub or a folder, cut to its first layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import BertForMaskedLM

from naslab.errors import InputError
from naslab.search_spaces.common.modules.bert import pretrained_config
from naslab.search_spaces.common.modules.pretrained import read_pretrained


def load_masked_lm(name: str, layers: int | None = None, where: str = "space.options.pretrained") -> BertForMaskedLM:
    """A BERT with the head for masked words, on the CPU in float32.

    Args:
        layers: only the first so many layers; None: all.

    Raises:
        InputError: there is no such model, it is no BERT, it has fewer layers, or its checkpoint lacks a weight: a head
            that is missing would be random without a word, and prompts at chance.
    """
    config = pretrained_config(name, where)
    if layers is not None and layers > config.num_hidden_layers:
        raise InputError(f"{where}: {name} has {config.num_hidden_layers} layers, not {layers}")
    config.num_hidden_layers = layers or config.num_hidden_layers
    model, missing = read_pretrained(BertForMaskedLM, name, where, config=config, attn_implementation="sdpa")
    if missing:
        part = "the head for masked words" if all(key.startswith("cls.") for key in missing) else missing[0]
        raise InputError(
            f"{where}: the checkpoint of {name} lacks {part} ({len(missing)} weights missing); use a model that was "
            "saved with its masked language model's head"
        )
    return model  # type: ignore[no-any-return]


def export_masked_lm(bert: BertForMaskedLM, tokens: Mapping[str, int], folder: Path) -> None:
    """Write a folder that transformers loads: `BertForMaskedLM.from_pretrained`, `BertTokenizer.from_pretrained`.

    Args:
        tokens: numbers by token, of the tokenizer that the model was trained with.

    Raises:
        InputError: the tokens do not number 0, 1, ... without a gap, or the folder cannot be written.
    """
    ordered = sorted(tokens, key=tokens.__getitem__)
    if [tokens[token] for token in ordered] != list(range(len(ordered))):
        raise InputError(f"{folder}: the tokens are not numbered from 0 without a gap; keep the tokenizer's own files")
    try:
        bert.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(ordered) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
