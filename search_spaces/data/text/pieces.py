"""A corpus in three disjoint contiguous parts of word pieces, for models that read a text from both sides."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text.corpus import TextOptions, read_corpus
from naslab.search_spaces.data.text.load import split
from naslab.search_spaces.data.text.windows import EVALUATION_BATCH, window_starts
from naslab.search_spaces.data.text.wordpiece import SpecialIds, TextTokenizer, named_tokenizer, train_wordpiece
from naslab.search_spaces.splits import Splits


@dataclass(frozen=True)
class PieceText(Splits[Tensor]):
    """Token numbers (N) of three parts, without special ones, and their tokenizer. `sha256` is of the text as read."""

    tokenizer: TextTokenizer
    name: str
    sha256: str


def load_pieces(
    options: TextOptions, vocabulary: int, special: SpecialIds, length: int, tokenizer: str | None = None
) -> PieceText:
    """Read, split and tokenize.

    Args:
        length: of the rows that the tokenizer gives.
        tokenizer: by name or folder; None: one that is trained on the training part.

    Raises:
        InputError: a part without words; see also `read_corpus`, `split`, `train_wordpiece` and `named_tokenizer`.
    """
    text = read_corpus(options)
    lines = [part.splitlines() for part in split(text, options)]
    if tokenizer is None:
        chosen = train_wordpiece(lines[0], vocabulary, special, length)
    else:
        chosen = named_tokenizer(tokenizer, vocabulary, special, length)
    train, validation, test = (_numbers(chosen, part) for part in lines)
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not len(part):
            raise InputError(f"data: the {name} part of corpus {options.corpus} has no words")
    if len(chosen.vocabulary) < vocabulary and tokenizer is None:
        warnings.warn(
            f"space.options.vocabulary: {vocabulary}, but the text gives {len(chosen.vocabulary)} tokens; the "
            "others cost time and are never right",
            stacklevel=2,
        )
    return PieceText(train, validation, test, chosen, options.corpus, hashlib.sha256(text.encode()).hexdigest())


@dataclass(frozen=True)
class PieceBatches:
    """Windows of a text, each as [CLS] tokens [SEP] of one length."""

    batch_size: int
    length: int
    special: SpecialIds

    @property
    def words(self) -> int:
        """Tokens of the text in a window."""
        return self.length - 2

    def per_pass(self, tokens_N: Tensor) -> int:
        """Whole batches in one pass through a text.

        Raises:
            InputError: it has fewer tokens than one.
        """
        least = self.batch_size * self.words
        if len(tokens_N) < least:
            raise InputError(
                f"data: the training part has {len(tokens_N)} tokens; a batch of {self.batch_size} windows needs "
                f"{least}"
            )
        return len(tokens_N) // least

    def batch(self, tokens_N: Tensor, seed: int, step: int) -> Tensor:
        """The windows (B, L) of a training step; a pass cuts the text at a random place and shuffles the windows."""
        starts = window_starts(len(tokens_N), self.words, self.batch_size, seed, step, self.per_pass(tokens_N))
        return self._framed(tokens_N[starts[:, None] + torch.arange(self.words)])

    def evaluation(self, tokens_N: Tensor, windows: int | None = None) -> list[Tensor]:
        """Every token once, or the first windows, in batches; the last window is padded."""
        number = -(-len(tokens_N) // self.words)
        padded = torch.full((number * self.words,), self.special.pad)
        padded[: len(tokens_N)] = tokens_N
        return [self._framed(part) for part in padded.view(number, -1)[:windows].split(EVALUATION_BATCH)]

    def _framed(self, words_BW: Tensor) -> Tensor:
        """With [CLS] before and [SEP] after the text, before the padding."""
        edge = words_BW.new_full((len(words_BW), 1), self.special.pad)
        framed = torch.cat([edge + (self.special.cls - self.special.pad), words_BW, edge], 1)
        ends = (framed != self.special.pad).sum(1, keepdim=True)
        return framed.scatter(1, ends, self.special.sep)


def _numbers(tokenizer: TextTokenizer, lines: list[str]) -> Tensor:
    return torch.tensor([number for code in tokenizer.codes(lines) for number in code.ids], dtype=torch.long)
