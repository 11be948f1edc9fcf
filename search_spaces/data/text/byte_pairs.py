"""A byte-level tokenizer: lossless, any text has a code, and each id stands for a known number of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

PAD, BEGIN, END, FIRST_SENTINEL = 0, 1, 2, 3
"""Ids of the special tokens; sentinels follow."""
BYTES = 256


def train_byte_pairs(text: str, vocabulary: int, sentinels: int = 0) -> Any:
    """A byte-level BPE tokenizer (transformers' `tokenizers`): lossless, any text has a code."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<pad>", "<s>", "</s>", *(f"<extra_id_{i}>" for i in range(sentinels))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(text), trainer)
    # Special tokens are put in by id; where a text spells one, it is text.
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Any, text: str) -> Tensor:
    """Token ids (N) of a text."""
    ids = [index for encoding in tokenizer.encode_batch(list(_lines(text))) for index in encoding.ids]
    return torch.tensor(ids, dtype=torch.int64)


def _lines(text: str) -> Iterator[str]:
    """The text in pieces that end with a line, so that long texts are not tokenized as one string."""
    for start in re.finditer(r"[^\n]*\n+|[^\n]+", text):
        yield start.group()
