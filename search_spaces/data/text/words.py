"""Word boundaries: which tokens of a text belong to the same word, for masks that hide words whole.

Of text written with spaces a word ends at a space; Chinese needs a segmenter, which only says where words begin: the
tokens stay those of the plain text (Cui et al. 2021, Chinese BERT with whole-word masking).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from naslab.errors import InputError

Segmenter: TypeAlias = Callable[[str], Sequence[str]]
"""A text in words, in order; of the text only white space may be missing."""
SegmenterName: TypeAlias = Literal["spaces", "characters", "jieba", "jieba_without_hmm"]


def segmenter(name: SegmenterName) -> Segmenter:
    """A segmenter by name: at spaces and punctuation, every character by itself, or by jieba.

    jieba cuts by a dictionary and, unless it is `jieba_without_hmm`, guesses new words among the characters left over.

    Raises:
        InputError: jieba is not installed.
    """
    match name:
        case "spaces":
            return lambda text: re.findall(r"\w+|[^\w\s]", text)
        case "characters":
            return lambda text: [letter for letter in text if not letter.isspace()]
        case "jieba":
            return _jieba(new_words=True)
        case "jieba_without_hmm":
            return _jieba(new_words=False)


def word_numbers(text: str, words: Sequence[str], tokens: Sequence[tuple[int, int]]) -> list[int]:
    """The number of the word, from 0, that each token belongs to.

    Where a token reaches over the end of a word, words and tokens do not fit each other, and every token of the text
    is a word of its own, as by the authors of whole-word masking.

    Args:
        words: the text's words in order.
        tokens: first character of each token and the one after its last.

    Raises:
        InputError: the words are not those of the text.
    """
    found = aligned_words(text, words, tokens)
    return list(range(len(tokens))) if found is None else found


def aligned_words(text: str, words: Sequence[str], tokens: Sequence[tuple[int, int]]) -> list[int] | None:
    """The same, but None where a token reaches over the end of a word.

    Raises:
        InputError: the words are not those of the text.
    """
    word_at = [-1] * (len(text) + 1)
    for number, (start, end) in enumerate(word_spans(text, words)):
        word_at[start:end] = [number] * (end - start)
    numbers = []
    for start, end in tokens:
        inside = {word_at[place] for place in range(start, end)} - {-1}
        if len(inside) != 1:
            return None
        numbers.append(inside.pop())
    return numbers


def word_spans(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """First character of each word and the one after its last.

    Raises:
        InputError: the words are not those of the text.
    """
    spans = []
    at = 0
    for word in words:
        start = text.find(word, at)
        if start < 0 or text[at:start].strip():
            raise InputError(f"segmenter: the words do not spell the text where {word!r} should stand")
        at = start + len(word)
        spans.append((start, at))
    if text[at:].strip():
        raise InputError(f"segmenter: the words do not spell the text; {text[at:].strip()[:20]!r} is missing")
    return spans


def _jieba(new_words: bool) -> Segmenter:
    try:
        import jieba  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise InputError("segmenter: jieba is not installed; pip install jieba, or use another segmenter") from None
    module: Any = jieba
    module.setLogLevel(60)
    return lambda text: [word for word in module.lcut(text, HMM=new_words) if word.strip()]
