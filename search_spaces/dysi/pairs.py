"""Parallel pairs as token numbers: their tokenizer, and batches as a SequenceModel's forward takes them.

Names: B pairs, S source tokens, L target tokens, M mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text import BEGIN, END, IGNORED, PAD, Batch, Pairs, train_byte_pairs
from naslab.search_spaces.dysi.model import MIXES, Ids
from naslab.search_spaces.dysi.options import DySIOptions


class Tokenizer(Protocol):
    """Texts to token numbers without special ones, and back."""

    ids: Ids

    def encode(self, texts: Sequence[str], target: bool) -> list[list[int]]:
        """The tokens of each text."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of tokens, special ones left out."""


class BytePairs:
    """A byte-level tokenizer trained on the training pairs, both sides in one vocabulary."""

    def __init__(self, pairs: Pairs, vocabulary: int) -> None:
        self.ids = Ids(PAD, BEGIN, END)
        self.codes: Any = train_byte_pairs("\n".join([*pairs.sources, *pairs.targets]), vocabulary)

    def encode(self, texts: Sequence[str], target: bool) -> list[list[int]]:
        """See Tokenizer."""
        return [encoding.ids for encoding in self.codes.encode_batch(list(texts))]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See Tokenizer."""
        return list(self.codes.decode_batch([list(row) for row in rows]))


class Named:
    """The tokenizer of a pre-trained network.

    Raises:
        InputError: there is none, or it has more tokens than the network.
    """

    def __init__(self, name: str, ids: Ids, vocabulary: int) -> None:
        from transformers import AutoTokenizer

        self.ids = ids
        try:
            self.codes: Any = AutoTokenizer.from_pretrained(name)
        except Exception as error:  # noqa: BLE001 - whatever its files lack, it is no tokenizer
            words = " ".join(str(error).split())[:200]
            raise InputError(f"space.options.pretrained: {name!r} has no tokenizer: {words}") from None
        if len(self.codes) > vocabulary:
            raise InputError(
                f"space.options.pretrained: the tokenizer of {name!r} has {len(self.codes)} tokens, its network "
                f"{vocabulary}"
            )

    def encode(self, texts: Sequence[str], target: bool) -> list[list[int]]:
        """See Tokenizer."""
        side = "text_target" if target else "text"
        return list(self.codes(**{side: list(texts)}, add_special_tokens=False)["input_ids"])

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See Tokenizer."""
        return list(self.codes.batch_decode([list(row) for row in rows], skip_special_tokens=True))


@dataclass(frozen=True)
class TokenPairs:
    """Sources and targets, each cut to its length; a whole target ends with the end token. `references` are as read."""

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    references: Sequence[str]
    ids: Ids
    options: DySIOptions

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.sources)

    def longer_than(self, tokens: int) -> list[int]:
        """The pairs of which a target goes on after so many tokens."""
        return [row for row, target in enumerate(self.targets) if len(target) > tokens + 1]

    def source_rows(self, rows: Sequence[int]) -> Tensor:
        """Sources (B, S), padded in front for a decoder, behind for an encoder."""
        padded = torch.full((len(rows), self.options.source_tokens), self.ids.pad)
        for at, row in enumerate(rows):
            source = torch.tensor(self.sources[row])
            where = slice(-len(source), None) if self.options.form == "decoder" else slice(len(source))
            padded[at, where] = source
        return padded

    def batch(self, rows: Sequence[int], generator: torch.Generator, share: float = 0.0) -> Batch:
        """What SequenceModel.forward takes. The weights are such that the mean over rows is one over tokens.

        Args:
            generator: of what decides which tokens are replaced.
            share: see Recipe.share.
        """
        number, length = len(rows), self.options.target_tokens
        targets = torch.full((number, length), IGNORED)
        for at, row in enumerate(rows):
            targets[at, : len(self.targets[row])] = torch.tensor(self.targets[row])
        counted = targets != IGNORED
        shifted = targets.roll(1, 1).masked_fill(~counted, self.ids.pad)
        shifted[:, 0] = self.ids.begin
        return {
            "source": self.source_rows(rows),
            "decoder_tokens": shifted,
            "targets": targets,
            "weight": counted * (number / counted.sum()),
            "share": torch.full((number,), share),
            "draw": torch.rand(number, MIXES, 2, generator=generator),
            "noise": torch.rand(number, length, MIXES, 2, generator=generator),
        }


def token_pairs(pairs: Pairs, tokenizer: Tokenizer, options: DySIOptions) -> TokenPairs:
    """The pairs under a tokenizer.

    Raises:
        InputError: a text of which the tokenizer makes no token.
    """
    sources, targets = tokenizer.encode(pairs.sources, target=False), tokenizer.encode(pairs.targets, target=True)
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        if not source or not target:
            side = "target" if source else "source"
            raise InputError(f"task.data: the {side} of pair {number} has no word that the tokenizer knows")
    return TokenPairs(
        [source[: options.source_tokens] for source in sources],
        [[*target, tokenizer.ids.end][: options.target_tokens] for target in targets],
        pairs.targets,
        tokenizer.ids,
        options,
    )
