"""transformers' BERT with its head for masked words: fresh, or from the hub or a folder, cut to its first layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertForMaskedLM, logging

from naslab.errors import InputError

TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
"""Weights of the head that are those of the embedding and of the head's own bias; a checkpoint may leave them out."""


def load_masked_lm(name: str, layers: int | None = None, where: str = "space.options.pretrained") -> BertForMaskedLM:
    """A BERT with the head for masked words, on the CPU in float32.

    Args:
        layers: only the first so many layers; None: all.

    Raises:
        InputError: there is no such model, it is no BERT, it has fewer layers, or its checkpoint lacks a weight: a head
            that is missing would be random without a word, and prompts at chance.
    """
    config = masked_lm_config(name, where)
    if layers is not None and layers > config.num_hidden_layers:
        raise InputError(f"{where}: {name} has {config.num_hidden_layers} layers, not {layers}")
    config.num_hidden_layers = layers or config.num_hidden_layers
    found: Any
    try:
        with _quiet():
            found = BertForMaskedLM.from_pretrained(
                name, config=config, dtype="float32", attn_implementation="sdpa", output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: cannot load {name!r}: {' '.join(str(error).split())[:200]}") from None
    model, loading = found
    missing = sorted(set(loading["missing_keys"]) - set(TIED))
    if missing:
        part = "the head for masked words" if all(key.startswith("cls.") for key in missing) else missing[0]
        raise InputError(
            f"{where}: the checkpoint of {name} lacks {part} ({len(missing)} weights missing); use a model that was "
            "saved with its masked language model's head"
        )
    return model  # type: ignore[no-any-return]


def masked_lm_config(name: str, where: str = "space.options.pretrained") -> BertConfig:
    """The configuration of a pre-trained BERT, from the hub or a folder.

    Raises:
        InputError: there is none, or it is no BERT.
    """
    try:
        config = BertConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: cannot load {name!r}: {' '.join(str(error).split())[:200]}") from None
    if config.model_type != "bert":
        raise InputError(f"{where}: {name!r} is a {config.model_type}, not a bert")
    return config


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of what it loaded, which `load_masked_lm` reads itself."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
