"""A corpus in three disjoint contiguous parts, under a byte-level tokenizer trained on the first alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text.byte_pairs import BYTES, FIRST_SENTINEL, encode, train_byte_pairs
from naslab.search_spaces.data.text.corpus import TextOptions, read_corpus
from naslab.search_spaces.splits import Splits


@dataclass(frozen=True)
class TextPart:
    """One part: its text, and its tokens as an int64 vector without special tokens."""

    text: str
    tokens: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the text in UTF-8, what bits per byte are divided by."""
        return len(self.text.encode())


@dataclass(frozen=True)
class TextData(Splits[TextPart]):
    """Three parts under one tokenizer. `token_bytes` (V): how many bytes each id stands for; special tokens none."""

    name: str
    sha256: str
    tokenizer: Any
    token_bytes: Tensor


def load_text(options: TextOptions, vocabulary: int, sentinels: int = 0) -> TextData:
    """Read, split and tokenize.

    Args:
        options: the corpus.
        vocabulary: at most so many token ids, special tokens included.
        sentinels: special tokens that mark spans.

    Raises:
        InputError: text that is missing, empty, not UTF-8, or too short to split; a vocabulary without room for
            every byte.
    """
    special = FIRST_SENTINEL + sentinels
    if vocabulary < special + BYTES:
        raise InputError(
            f"space.options.vocabulary: {vocabulary} is too small; {BYTES} bytes and {special} special tokens need "
            f"{BYTES + special}"
        )
    text = read_corpus(options)
    parts = split(text, options)
    tokenizer = train_byte_pairs(parts[0], vocabulary, sentinels)
    token_bytes = torch.zeros(vocabulary, dtype=torch.int64)
    for token, index in tokenizer.get_vocab().items():
        token_bytes[index] = 0 if index < special else len(token)  # byte-level: one character a byte
    train, validation, test = (TextPart(part, encode(tokenizer, part)) for part in parts)
    return TextData(
        train=train,
        validation=validation,
        test=test,
        name=options.corpus,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        tokenizer=tokenizer,
        token_bytes=token_bytes,
    )


def split(text: str, options: TextOptions) -> tuple[str, str, str]:
    """Train, validation and test part, one after the other, cut at the end of a line near the asked share.

    Raises:
        InputError: shares that leave nothing to train on, or a text too short for three parts.
    """
    if options.validation + options.test >= 1:
        raise InputError(f"data: validation {options.validation} and test {options.test} leave nothing to train on")
    first = _cut(text, round(len(text) * (1 - options.validation - options.test)))
    second = _cut(text, round(len(text) * (1 - options.test)))
    parts = text[:first], text[first:second], text[second:]
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if not part.strip():
            raise InputError(f"data: {len(text)} characters are too few to split; the {name} part is empty")
    return parts


def _cut(text: str, near: int) -> int:
    at = text.find("\n", near, near + 200)
    return near if at < 0 else at + 1
