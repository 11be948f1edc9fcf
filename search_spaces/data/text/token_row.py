"""A part of a corpus as one row of tokens, and which of them are words by any segmenter.

Segmenters say where words begin and end; the tokens stay those of the plain text (Cui et al. 2021). Each text is
segmented once, when a training first asks for it, so that the ledger charges the seconds there. Names: T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text.tagged import TaggedText
from naslab.search_spaces.data.text.wordpiece import Code, TextTokenizer
from naslab.search_spaces.data.text.words import aligned_words, segmenter

WordsBy: TypeAlias = Literal["gold", "jieba", "jieba_without_hmm", "pieces"]
WORDS_BY: tuple[WordsBy, ...] = ("gold", "jieba", "jieba_without_hmm", "pieces")
"""Words as people marked them; by jieba, with and without its guesses of new words; by the tokenizer, where later
pieces of a word begin with ##: that is right for English, and makes every Chinese character a word."""
NAMES = ("nr", "ns", "nt", "nz")
"""Tags of persons, places, organisations and other names, of the People's Daily and of jieba alike."""
UNWORDED = -1
"""Number of a token that belongs to no word: the end of a text."""


class Words(NamedTuple):
    """Numbers of the words (T,), rising; what share of the texts did not fit their tokens; CPU seconds that it took."""

    numbers_T: Tensor
    unaligned: float
    seconds: float


class Marked(NamedTuple):
    """The words of a text, and their tags where there are any."""

    words: Sequence[str]
    tags: Sequence[str] = ()


class TokenRow:
    """Texts one after the other, each with [SEP] behind it; `ids_T` (T,), int64."""

    def __init__(self, texts: Sequence[TaggedText], tokenizer: TextTokenizer) -> None:
        self.texts, self._codes = texts, tokenizer.codes([text.text for text in texts])
        for text, code in zip(texts, self._codes, strict=True):
            if not code.ids:
                raise InputError(f"task.corpus: text {text.text[:20]!r} has no words; remove it")
        self.ids_T = torch.tensor([i for code in self._codes for i in (*code.ids, tokenizer.special.sep)])
        self._known: dict[tuple[WordsBy, bool], Words] = {}

    def words(self, by: WordsBy, names: bool = False) -> Words:
        """Words by a segmenter; a text whose tokens do not fit its words has every token as a word, as published.

        Args:
            names: words side by side with the same tag of NAMES are one.

        Raises:
            InputError: gold words that nobody marked, tags that there are none of, or jieba is not installed.
        """
        if (by, names) not in self._known:
            started = time.process_time()
            numbers, unaligned = self._numbered(by, names)
            self._known[by, names] = Words(numbers, unaligned, time.process_time() - started)
        return self._known[by, names]

    def tags(self, classes: Sequence[str]) -> Tensor:
        """Number of the tag of each token's gold word in `classes`, (T,); -1 where it is none of them, or unknown."""
        index = {tag: number for number, tag in enumerate(classes)}
        found: list[int] = []
        for text, code in zip(self.texts, self._codes, strict=True):
            numbers = aligned_words(text.text, text.words, code.spans)
            of_words = [index.get(tag, -1) for tag in text.tags]
            found += [-1] * len(code.ids) if numbers is None else [of_words[number] for number in numbers]
            found.append(-1)
        return torch.tensor(found)

    def _numbered(self, by: WordsBy, names: bool) -> tuple[Tensor, float]:
        mark = marker(by, names)
        numbers: list[int] = []
        first, unaligned = 0, 0
        for text, code in zip(self.texts, self._codes, strict=True):
            own = None if mark is None else _of_text(text, mark(text), code, names)
            unaligned += mark is not None and own is None
            fallback = code.words if mark is None else range(len(code.ids))
            numbers += [first + number for number in (fallback if own is None else own)]
            first = max(first, numbers[-1] + 1) if numbers else 0
            numbers.append(UNWORDED)
        return torch.tensor(numbers), unaligned / max(len(self.texts), 1)


def marker(by: WordsBy, names: bool) -> Any:
    """What gives a text its words, and with `names` their tags; None: the tokenizer itself.

    Raises:
        InputError: see `TokenRow.words`.
    """
    if by == "pieces":
        if names:
            raise InputError("segmenter: pieces has no tags, so names are unknown; use gold or jieba with unit entity")
        return None
    if by == "gold":
        return _gold_and_tags if names else _gold
    cut = segmenter(by)
    if not names:
        return lambda text: Marked(cut(text.text))
    import jieba.posseg  # type: ignore[import-not-found, import-untyped, unused-ignore]

    tagged: Any = jieba.posseg
    return lambda text: _tagged(tagged.lcut(text.text, HMM=by == "jieba"))


def _gold(text: TaggedText) -> Marked:
    if not text.words:
        raise InputError("segmenter: gold needs words that people marked; use another, or task.corpus.marked")
    return Marked(text.words, text.tags)


def _gold_and_tags(text: TaggedText) -> Marked:
    if not text.tags:
        raise InputError("unit: entity by gold words needs their tags; use jieba, or marked = words_and_tags")
    return Marked(text.words, text.tags)


def _tagged(pairs: Sequence[Any]) -> Marked:
    kept = [(pair.word, pair.flag) for pair in pairs if pair.word.strip()]
    return Marked([word for word, _ in kept], [tag for _, tag in kept])


def _of_text(text: TaggedText, marked: Marked, code: Code, names: bool) -> Sequence[int] | None:
    numbers = aligned_words(text.text, marked.words, code.spans)
    if numbers is None or not names:
        return numbers
    joined = named_runs(marked.tags)
    return [joined[number] for number in numbers]


def named_runs(tags: Sequence[str]) -> list[int]:
    """Number of the unit of each word: words side by side with the same tag of a name are one unit."""
    if not tags:
        return []
    number, found = 0, [0]
    for before, tag in pairwise(tags):
        number += not (tag == before and tag in NAMES)
        found.append(number)
    return found
