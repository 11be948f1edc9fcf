"""Texts to rows of token numbers: a WordPiece trained on the training text, or a tokenizer by name."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Strict
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text.hub_tokenizers import load_tokenizer, number_range
from naslab.search_spaces.data.text.words import Segmenter, word_numbers

IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")
"""A Chinese character: BERT makes each a token of its own, so none continues a word."""


Number = Annotated[int, Strict()]
"""Of a token; true is none, nor is 3.0 or "3"."""


@dataclass(frozen=True)
class SpecialIds:
    """Numbers of the special tokens in the vocabulary; the defaults are those of the tokenizer trained here."""

    pad: Number = 0
    cls: Number = 1
    sep: Number = 2
    mask: Number = 3
    unk: Number = 4

    def fit(self, vocabulary: int) -> bool:
        """Whether they differ and leave words in a vocabulary of so many tokens."""
        numbers = set(astuple(self))
        return len(numbers) == 5 and min(numbers) >= 0 and max(numbers) < vocabulary and vocabulary > 5

    def are_words(self, ids: Tensor) -> Tensor:
        """Which tokens are no padding, [CLS] or [SEP], and so may be hidden."""
        return (ids != self.pad) & (ids != self.cls) & (ids != self.sep)

    def words(self, noise: Tensor, vocabulary: int) -> Tensor:
        """Numbers of any tokens but the special ones, wherever these stand (RoBERTa's mask is the last of all).

        Args:
            noise: uniform in [0, 1), of any shape.
        """
        special = sorted(set(astuple(self)))
        number = vocabulary - len(special)
        words = (noise * number).long().clamp(max=number - 1)
        for one in special:
            words = words + (words >= one)
        return words


@dataclass(frozen=True)
class Code:
    """The tokens of a text, without special ones; the first character of each and the one after its last.

    `words`: the tokenizer's own word of each, from 0: what follows a first piece as `##` belongs to its word.
    """

    ids: Sequence[int]
    spans: Sequence[tuple[int, int]]
    words: Sequence[int]


class TextTokenizer:
    """Texts as [CLS] words [SEP], cut and padded to one length.

    `vocabulary`: numbers by token; `peer` makes the same tokenizer of transformers.
    """

    def __init__(
        self,
        codes: Callable[[Sequence[str]], list[Code]],
        special: SpecialIds,
        length: int,
        vocabulary: Mapping[str, int],
        peer: Callable[[], Any],
    ) -> None:
        self._codes, self.special, self.length, self.vocabulary = codes, special, length, vocabulary
        self._peer = peer

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token numbers (N, length), int64."""
        return self._framed(
            [code.ids for code in self.codes(texts)], self.special.cls, self.special.sep, self.special.pad
        )

    def worded(self, texts: Sequence[str], where: str) -> Tensor:
        """The same, of texts that each have a word.

        Raises:
            InputError: one has none; `where` is the option that gives them.
        """
        rows = self(texts)
        empty = (rows.ne(self.special.pad).sum(1) < 3).nonzero().flatten().tolist()
        if empty:
            raise InputError(f"{where}: text {texts[empty[0]][:20]!r} has no words; remove it")
        return rows

    def of_length(self, length: int) -> TextTokenizer:
        """The same for rows of another length."""
        other = copy.copy(self)
        other.length = length
        return other

    def words(self, texts: Sequence[str], segment: Segmenter | None = None) -> Tensor:
        """The word, from 0, of each token that the call gives, (N, length), int64; of special tokens -1.

        Args:
            segment: None: words are the tokenizer's own, whose later pieces begin with ##.
        """
        codes = zip(texts, self.codes(texts), strict=True)
        numbers = [code.words if segment is None else _numbers(text, segment, code) for text, code in codes]
        return self._framed(numbers, -1, -1, -1)

    def codes(self, texts: Sequence[str]) -> list[Code]:
        """The tokens of each text, all of them and without special ones."""
        return self._codes(list(texts)) if texts else []

    def save(self, folder: Path) -> None:
        """Write it as transformers' AutoTokenizer loads it, letters' case included."""
        self._peer().save_pretrained(folder)

    def _framed(self, rows: Sequence[Sequence[int]], begin: int, end: int, pad: int) -> Tensor:
        framed_NW = torch.full((len(rows), self.length), pad, dtype=torch.long)
        for row, numbers in enumerate(rows):
            whole = [begin, *numbers[: self.length - 2], end]
            framed_NW[row, : len(whole)] = torch.tensor(whole)
        return framed_NW


def _numbers(text: str, segment: Segmenter, code: Code) -> Sequence[int]:
    return word_numbers(text, segment(text), code.spans)


def train_wordpiece(
    words: Sequence[str], vocabulary: int, special: SpecialIds, length: int, least: int = 1, room: int = 0
) -> TextTokenizer:
    """A WordPiece of at most `vocabulary` tokens, trained on `words`; the same texts give the same tokens.

    Args:
        least: a letter that occurs less often is unknown.
        room: of the vocabulary, so many tokens are left for others to add.

    Raises:
        InputError: no text, or special tokens that are not numbered 0 to 4.
    """
    if not any(text.strip() for text in words):
        raise InputError("task.dataset: the training captions are empty; a tokenizer needs text")
    named = {special.pad: "[PAD]", special.cls: "[CLS]", special.sep: "[SEP]", special.mask: "[MASK]"}
    named[special.unk] = "[UNK]"
    if sorted(named) != list(range(5)):
        raise InputError("space.options.special: a tokenizer trained on the data numbers its special tokens 0 to 4")
    learner = _pipeline(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers continuations (##a) as a hash map gives them, other each time, unless it knows them before.
    counted = Counter("".join(learner.normalizer.normalize_str(text) for text in words))
    letters = sorted(letter for letter, number in counted.items() if letter != " " and number >= least)
    continued = [letter for letter in letters if not IDEOGRAPH.match(letter)]
    known = [*(named[number] for number in range(5)), *(f"##{letter}" for letter in continued)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary - room, special_tokens=known, limit_alphabet=len(letters), show_progress=False
    )
    learner.train_from_iterator(words, trainer)
    learned = learner.get_vocab()
    if len(learned) + room > vocabulary:
        raise InputError(
            f"space.options.vocabulary: {vocabulary} is too small for text of {len(letters)} letters; use "
            f"{len(learned) + room} or more"
        )
    tokenizer = _pipeline(models.WordPiece(learned, unk_token="[UNK]"))

    def codes(texts: Sequence[str]) -> list[Code]:
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [Code(encoding.ids, encoding.offsets, encoding.word_ids) for encoding in encodings]

    def peer() -> Any:
        from transformers import BertTokenizer

        return BertTokenizer(vocab=learned)

    return TextTokenizer(codes, special, length, learned, peer)


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
    found = pretrained_tokenizer(name, length)
    if found.special != special:
        numbers = asdict(found.special)
        raise InputError(
            f"task.tokenizer: {name} numbers its special tokens {numbers}; set space.options.special to that"
        )
    size = number_range(found.vocabulary)
    if size > vocabulary:
        raise InputError(f"task.tokenizer: {name} has {size} tokens; set space.options.vocabulary to that")
    return found


def pretrained_tokenizer(name: str, length: int, where: str = "task.tokenizer") -> TextTokenizer:
    """The tokenizer of a model on the hub or in a folder, with the numbers of its own special tokens.

    Raises:
        InputError: there is none, or it lacks a special token that masked words need.
    """
    tokenizer = load_tokenizer(name, where)
    numbers = {key: getattr(tokenizer, f"{key}_token_id") for key in asdict(SpecialIds())}
    for key, number in numbers.items():
        if number is None:
            raise InputError(f"{where}: the tokenizer of {name} has no {key} token, which masked words need")
    if not tokenizer.is_fast:
        raise InputError(f"{where}: the tokenizer of {name} does not say where its tokens stand in the text")

    def codes(texts: Sequence[str]) -> list[Code]:
        how = {"add_special_tokens": False, "split_special_tokens": True}  # a text that spells [MASK] is text
        found = tokenizer(list(texts), return_offsets_mapping=True, verbose=False, **how)
        pairs = enumerate(zip(found["input_ids"], found["offset_mapping"], strict=True))
        return [Code(ids, spans, found.word_ids(i)) for i, (ids, spans) in pairs]

    return TextTokenizer(codes, SpecialIds(**numbers), length, tokenizer.get_vocab(), lambda: tokenizer)
