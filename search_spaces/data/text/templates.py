"""Templates of prompts, in the authors' notation: `*cls**sent_0*_It_was*mask*.*sep+*`.

Between two stars stands a variable, outside of them text, where `_` is a space. Variables: `cls`, `sep`, `sep+` (what
follows is another segment), `mask`, and sentences, `sent_0` and of pairs `sent_1`, with `+` before for a leading space,
`l` or `u` after `sent` for a lower- or upper-case first letter, and `-` for all but the last character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from naslab.errors import InputError
from naslab.search_spaces.data.text.wordpiece import SpecialIds

SENTENCE = re.compile(r"(?P<space>\+?)sent(?P<case>[lu]?)(?P<cut>-?)_(?P<number>\d+)")
SINGLE = ("cls", "mask", "sep", "sep+")
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Piece:
    """Text, a special token, or a place for a sentence (`text` is then the variable)."""

    kind: Literal["text", "sentence", "cls", "mask", "sep", "sep+"]
    text: str = ""

    @property
    def sentence(self) -> int:
        """Which sentence stands here."""
        return int(_match(self.text)["number"])

    def filled(self, sentence: str) -> str:
        """The sentence as this place wants it."""
        found = _match(self.text)
        first = {"l": sentence[:1].lower(), "u": sentence[:1].upper(), "": sentence[:1]}[found["case"]]
        shown = first + sentence[1:]
        return (" " if found["space"] else "") + (shown[:-1] if found["cut"] else shown)


class Prompt(NamedTuple):
    """Token numbers with the segment of each, and the place of the mask."""

    ids: list[int]
    segments: list[int]
    mask: int


@dataclass(frozen=True)
class Limits:
    """The most tokens of a prompt, of the query's first sentence, and of every other sentence; None: as many."""

    row: int
    first: int | None = None
    others: int | None = None


@dataclass(frozen=True)
class Template:
    """A parsed template. `source` is its text."""

    source: str
    pieces: tuple[Piece, ...]

    @property
    def sentences(self) -> int:
        """How many sentences it takes: 1, or 2 for pairs."""
        return 1 + max(piece.sentence for piece in self.pieces if piece.kind == "sentence")

    def fill(
        self,
        encode: Encode,
        special: SpecialIds,
        query: Sequence[str],
        limits: Limits,
        demonstrations: Sequence[tuple[Sequence[str], int]] = (),
    ) -> Prompt:
        """The prompt of a query, followed by the same template once for each demonstration, its word for the mask.

        Args:
            encode: a text to token numbers, without special ones, whose numbers are `special`.
            limits: where all are more tokens than a row, the longest sentences lose their ends, the template nothing.
            demonstrations: sentences, and the number of the word that stands for their class.

        Raises:
            InputError: the template alone is longer than a row.
        """
        parts = list(self._parts(encode, special, query, None))
        for sentences, word in demonstrations:
            parts += self._parts(encode, special, sentences, word)
        texts = [part for part in parts if part.cut]
        for number, part in enumerate(texts):
            part.ids = part.ids[: limits.others if number else limits.first]
        self._shorten(texts, limits.row - sum(len(part.ids) for part in parts if not part.cut))
        return _joined(parts)

    def _parts(
        self, encode: Encode, special: SpecialIds, sentences: Sequence[str], word: int | None
    ) -> Iterator[_Part]:
        """The query's parts, and with a word those of a demonstration, which has no class token."""
        for piece in self.pieces:
            match piece.kind:
                case "sentence":
                    yield _Part(list(encode(piece.filled(sentences[piece.sentence]))), cut=True)
                case "text":
                    yield _Part(list(encode(piece.text)))
                case "mask":
                    yield _Part([special.mask if word is None else word], mask=word is None)
                case "cls":
                    yield _Part([] if word is not None else [special.cls])
                case "sep" | "sep+":
                    yield _Part([special.sep], ends=piece.kind == "sep+")

    def _shorten(self, sentences: list[_Part], room: int) -> None:
        """Cut the sentences to the most tokens each that let all fit."""
        most = max(min(max((len(part.ids) for part in sentences), default=0), room), 0)
        while most > 0 and sum(min(len(part.ids), most) for part in sentences) > room:
            most -= 1
        if room < 0 or (most == 0 and any(part.ids for part in sentences)):
            raise InputError(
                f"space.options.length: too short for template {self.source!r}: without its sentences it leaves "
                f"{room} tokens for {len(sentences)}"
            )
        for part in sentences:
            part.ids = part.ids[:most]


@dataclass
class _Part:
    ids: list[int]
    cut: bool = False
    mask: bool = False
    ends: bool = False


def parse_template(source: str, generated: bool = False) -> Template:
    """A template from its text.

    Args:
        generated: its text may hold stars of its own; what is no variable between two stars is text.

    Raises:
        InputError: an unknown variable, a star without another, not exactly one mask, or sentences other than the
            first, or the first and second.
    """
    where = f"template {source!r}"
    parts = source.split("*")
    if len(parts) % 2 == 0 and not generated:
        raise InputError(f"{where}: an odd number of stars; each variable stands between two")
    pieces = tuple(_pieces(parts, where, strict=not generated))
    masks = sum(piece.kind == "mask" for piece in pieces)
    if masks != 1:
        raise InputError(f"{where}: needs one *mask*, has {masks}")
    numbers = {piece.sentence for piece in pieces if piece.kind == "sentence"}
    if numbers not in ({0}, {0, 1}):
        raise InputError(f"{where}: needs *sent_0*, and *sent_1* for pairs; has sentences {sorted(numbers) or 'none'}")
    return Template(source, pieces)


def _plain(source: str) -> Template:
    return Template("", tuple(_pieces(source.split("*"), source, strict=True)))


def _pieces(parts: Sequence[str], where: str, strict: bool) -> Iterator[Piece]:
    """A part that names a variable is one, wherever it stands."""
    for index, part in enumerate(parts):
        if part in SINGLE:
            yield Piece(part)  # type: ignore[arg-type]
        elif SENTENCE.fullmatch(part):
            yield Piece("sentence", part)
        elif part and strict and index % 2 == 1:
            raise InputError(f"{where}: unknown variable *{part}*; there are {', '.join(SINGLE)}, sent_0 and sent_1")
        elif part:
            yield Piece("text", part.replace("_", " "))


PLAIN = (_plain("*cls**sent_0**sep+*"), _plain("*cls**sent_0**sep+**sent_1**sep+*"))
"""Without a mask: a sentence, and a pair of them, for what looks at the class token."""


def _match(variable: str) -> re.Match[str]:
    found = SENTENCE.fullmatch(variable)
    assert found is not None
    return found


def _joined(parts: Sequence[_Part]) -> Prompt:
    ids: list[int] = []
    segments: list[int] = []
    segment = mask = 0
    for part in parts:
        mask = len(ids) if part.mask else mask
        ids += part.ids
        segments += [segment] * len(part.ids)
        segment += part.ends
    return Prompt(ids, segments, mask)
