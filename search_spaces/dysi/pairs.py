"""Parallel pairs as token numbers, and batches of them as a SequenceModel's forward takes them.

Names: B pairs, S source tokens, L target tokens, M mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text import IGNORED, Batch, Pairs
from naslab.search_spaces.data.text.padded import padded
from naslab.search_spaces.data.text.pair_tokenizers import Ids, PairTokenizer
from naslab.search_spaces.dysi.model import MIXES
from naslab.search_spaces.dysi.options import DySIOptions


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
        side: Literal["left", "right"] = "left" if self.options.form == "decoder" else "right"
        return padded([self.sources[row] for row in rows], self.ids.pad, self.options.source_tokens, side)

    def batch(self, rows: Sequence[int], generator: torch.Generator, share: float = 0.0) -> Batch:
        """What SequenceModel.forward takes. The weights are such that the mean over rows is one over tokens.

        Args:
            generator: of what decides which tokens are replaced.
            share: see Recipe.share.
        """
        number, length = len(rows), self.options.target_tokens
        targets = padded([self.targets[row] for row in rows], IGNORED, length)
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


def token_pairs(pairs: Pairs, tokenizer: PairTokenizer, options: DySIOptions) -> TokenPairs:
    """The pairs under a tokenizer, with its special tokens around each source.

    Raises:
        InputError: a source has no room beside these, or a text of which the tokenizer makes no token.
    """
    before, after = tokenizer.around
    special = len(before) + len(after)
    room = options.source_tokens - special
    if room < 1:
        raise InputError(
            f"space.options.source_tokens: {options.source_tokens} leaves no room beside the {special} special tokens "
            "of the network's tokenizer"
        )
    sources, targets = tokenizer.encode(pairs.sources, target=False), tokenizer.encode(pairs.targets, target=True)
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        if not source or not target:
            side = "target" if source else "source"
            raise InputError(f"task.data: the {side} of pair {number} has no word that the tokenizer knows")
    return TokenPairs(
        [[*before, *source[:room], *after] for source in sources],
        [[*target, tokenizer.ids.end][: options.target_tokens] for target in targets],
        pairs.targets,
        tokenizer.ids,
        options,
    )
