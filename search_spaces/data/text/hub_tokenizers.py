"""Tokenizers of transformers, from the hub or a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from naslab.errors import InputError
from naslab.search_spaces.data.packages import model_folder, reason

PROBE = ["a", "the", "A", "1", "2", "的"]
"""Some of it every tokenizer knows."""


def load_tokenizer(name: str, where: str) -> Any:
    """The tokenizer of a model on the hub, in a folder, or of MINILM.

    Args:
        where: the option that gives the name.

    Raises:
        InputError: there is none.
    """
    try:
        tokenizer = _named(model_folder(name))
        rows = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        known = any(text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True))
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever its files lack, it is no tokenizer
        raise InputError(f"{where}: cannot load the tokenizer of {name!r}: {reason(name, error)}") from None
    # Without files of one, transformers makes an empty tokenizer, to which every word is unknown.
    if not known:
        raise InputError(f"{where}: cannot load the tokenizer of {name!r}: it knows none of {' '.join(PROBE)}")
    return tokenizer


def number_range(vocabulary: Mapping[str, int]) -> int:
    """One more than the largest token number: numbers may have gaps, so there can be fewer tokens."""
    return 1 + max(vocabulary.values())


def plain_ids(tokenizer: Any, texts: Sequence[str], side: Literal["text", "text_target"] = "text") -> list[list[int]]:
    """Token numbers of texts without special ones: where a text spells one, such as `</s>`, it is text."""
    how = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    rows: list[list[int]] = tokenizer(**{side: list(texts)}, **how)["input_ids"] if texts else []
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    names = "|".join(re.escape(name[1:]) for name in tokenizer.all_special_tokens if len(name) > 1)
    for number, row in enumerate(rows):
        if names and not special.isdisjoint(row):  # SentencePiece has them among its pieces, and asks nobody
            parts = re.split(f"(?=(?:{names}))", texts[number])
            rows[number] = [i for part in tokenizer(**{side: parts}, **how)["input_ids"] for i in part]
    return rows


def around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that it puts before and after a text, such as T5's end."""
    for text in PROBE:
        bare, whole = (list(tokenizer(text, add_special_tokens=add)["input_ids"]) for add in (False, True))
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
    return [], []


def _named(name: str) -> Any:
    """What the folder says it is; BERT's where it does not say, as the published Chinese models with `roberta` in their
    names, which transformers takes for RoBERTa's.
    """
    from transformers import AutoTokenizer, BertTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        if not (Path(name) / "vocab.txt").is_file():
            raise
        return BertTokenizer.from_pretrained(name)
