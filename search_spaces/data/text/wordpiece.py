"""Texts to rows of token numbers: a WordPiece trained on the training text, or a tokenizer by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from naslab.efficiency.errors import InputError


@dataclass(frozen=True)
class SpecialIds:
    """Numbers of the special tokens in the vocabulary; the defaults are those of the tokenizer trained here."""

    pad: int = 0
    cls: int = 1
    sep: int = 2
    mask: int = 3
    unk: int = 4

    @property
    def first_word(self) -> int:
        """The first number above all special tokens."""
        return max(self.pad, self.cls, self.sep, self.mask, self.unk) + 1


class TextTokenizer:
    """Lower-cased texts as [CLS] words [SEP], cut and padded to one length."""

    def __init__(self, numbers: Callable[[Sequence[str]], list[list[int]]], special: SpecialIds, length: int) -> None:
        self._numbers, self.special, self.length = numbers, special, length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token numbers (N, length), int64."""
        ids_NW = torch.full((len(texts), self.length), self.special.pad, dtype=torch.long)
        for row, numbers in enumerate(self._numbers(list(texts)) if texts else []):
            whole = [self.special.cls, *numbers[: self.length - 2], self.special.sep]
            ids_NW[row, : len(whole)] = torch.tensor(whole)
        return ids_NW


def train_wordpiece(words: Sequence[str], vocabulary: int, special: SpecialIds, length: int) -> TextTokenizer:
    """A WordPiece of at most `vocabulary` tokens, trained on `words`; the same texts give the same tokens.

    Raises:
        InputError: no text, or special tokens that are not numbered 0 to 4.
    """
    if not any(text.strip() for text in words):
        raise InputError("task.dataset: the training captions are empty; a tokenizer needs text")
    named = {special.pad: "[PAD]", special.cls: "[CLS]", special.sep: "[SEP]", special.mask: "[MASK]"}
    named[special.unk] = "[UNK]"
    if sorted(named) != list(range(5)):
        raise InputError("space.special: a tokenizer trained on the data numbers its special tokens 0 to 4")
    learner = _pipeline(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers continuations (##a) as a hash map gives them, other each time, unless it knows them before.
    letters = sorted(set("".join(learner.normalizer.normalize_str(text) for text in words)) - {" "})
    known = [*(named[number] for number in range(5)), *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=known, limit_alphabet=len(letters), show_progress=False
    )
    learner.train_from_iterator(words, trainer)
    learned = learner.get_vocab()
    if len(learned) > vocabulary:
        raise InputError(
            f"space.vocabulary: {vocabulary} is too small for text of {len(letters)} letters; use {len(learned)} or "
            "more"
        )
    tokenizer = _pipeline(models.WordPiece(learned, unk_token="[UNK]"))

    def numbers(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    return TextTokenizer(numbers, special, length)


def _pipeline(model: Any) -> Any:
    tokenizer: Any = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def named_tokenizer(name: str, vocabulary: int, special: SpecialIds, length: int) -> TextTokenizer:
    """The tokenizer of a model on the hub or in a folder.

    Raises:
        InputError: there is none, or its numbers do not fit the space.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"task.tokenizer: cannot load {name!r}: {' '.join(str(error).split())[:200]}") from None
    found = {key: getattr(tokenizer, f"{key}_token_id") for key in ("pad", "cls", "sep", "mask", "unk")}
    wanted = {key: getattr(special, key) for key in found}
    if found != wanted:
        raise InputError(
            f"task.tokenizer: {name} numbers its special tokens {found}; set space.options.special to that"
        )
    if len(tokenizer) > vocabulary:
        raise InputError(f"task.tokenizer: {name} has {len(tokenizer)} tokens; set space.options.vocabulary to that")

    def numbers(texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return rows

    return TextTokenizer(numbers, special, length)
