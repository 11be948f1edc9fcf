"""Tokenizers of parallel pairs: one trained on both sides of the training pairs, or that of a pre-trained network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from naslab.errors import InputError
from naslab.search_spaces.data.text.byte_pairs import BEGIN, END, PAD, train_byte_pairs
from naslab.search_spaces.data.text.hub_tokenizers import around, load_tokenizer, number_range, plain_ids
from naslab.search_spaces.data.text.parallel import Pairs


@dataclass(frozen=True)
class Ids:
    """Token numbers that mean padding, the begin of a target and its end."""

    pad: int
    begin: int
    end: int


class PairTokenizer(Protocol):
    """Texts to token numbers without special ones, and back."""

    ids: Ids
    around: tuple[Sequence[int], Sequence[int]]
    """Special tokens before and after a source, as the network was trained to read it."""

    def encode(self, texts: Sequence[str], target: bool) -> list[list[int]]:
        """The tokens of each text."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of tokens, special ones left out."""


class BytePairs:
    """A byte-level tokenizer trained on the training pairs, both sides in one vocabulary."""

    def __init__(self, pairs: Pairs, vocabulary: int) -> None:
        self.ids = Ids(PAD, BEGIN, END)
        self.around: tuple[Sequence[int], Sequence[int]] = ((), ())
        self.codes: Any = train_byte_pairs("\n".join([*pairs.sources, *pairs.targets]), vocabulary)

    def encode(self, texts: Sequence[str], target: bool) -> list[list[int]]:
        """See PairTokenizer."""
        return [encoding.ids for encoding in self.codes.encode_batch(list(texts))]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See PairTokenizer."""
        return list(self.codes.decode_batch([list(row) for row in rows]))


class NamedPairs:
    """The tokenizer of a pre-trained network.

    Raises:
        InputError: there is none, or it has more tokens than the network.
    """

    def __init__(self, name: str, ids: Ids, vocabulary: int) -> None:
        self.ids = ids
        self.codes: Any = load_tokenizer(name, "space.options.pretrained")
        if (numbers := number_range(self.codes.get_vocab())) > vocabulary:
            raise InputError(
                f"space.options.pretrained: the tokenizer of {name!r} has {numbers} tokens, its network {vocabulary}"
            )
        self.around: tuple[Sequence[int], Sequence[int]] = around(self.codes)

    def encode(self, texts: Sequence[str], target: bool) -> list[list[int]]:
        """See PairTokenizer."""
        return plain_ids(self.codes, texts, "text_target" if target else "text")

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See PairTokenizer."""
        return list(self.codes.batch_decode([list(row) for row in rows], skip_special_tokens=True))
