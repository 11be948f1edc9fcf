"""Which tokens of a text are hidden, in which blocks, and in which order these are predicted (UniLMv2, algorithm 1).

Bao et al. 2020, *UniLMv2: Pseudo-Masked Language Models for Unified Language Model Pre-Training* (arXiv 2002.12804).
Everything is drawn from given noise, by tensor operations of fixed shapes. Names: B texts, L tokens of each, M slots
for masked tokens, P proposed blocks, S tokens of the longest block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from naslab.search_spaces.common.objectives.fates import PUBLISHED, Fates, corrupted
from naslab.search_spaces.data.text import SpecialIds

Order = Literal["random", "left_to_right", "right_to_left"]
NOISE = 10
"""Uniform numbers that each token brings: of two proposals three each, then the four below."""
LEFT, ORDER, FATE, WORD = 6, 7, 8, 9
"""What they decide: tokens where proposals ran out, the order of single tokens, their fate, the random token."""
PROPOSALS = 4
"""Proposed blocks for each token to be masked, at most two for each token of the text."""
EXACT = 1e-9
"""What a share times a count may be off by."""


@dataclass(frozen=True)
class Masking:
    """How texts are masked; the defaults are the paper's.

    Attributes:
        rate: share of a text's tokens that are masked.
        span_share: how likely a proposed block is a span of 2 to `longest` tokens, all as likely; else a single token.
        single: every token is a step by itself, whatever block masked it (AR).
        exact: the last block is cut to the rate; otherwise it may go beyond it, as published.
        fates: what becomes of the masked tokens.
    """

    rate: float = 0.15
    span_share: float = 0.4
    longest: int = 6
    order: Order = "random"
    single: bool = False
    exact: bool = False
    fates: Fates = PUBLISHED

    def budget(self, words: int) -> int:
        """How many of `words` tokens are masked at least."""
        return min(max(math.ceil(self.rate * words - EXACT), 1), words)

    def slots(self, length: int) -> int:
        """The most tokens that are masked of a text of `length`, [CLS] and [SEP] among them."""
        words = length - 2
        beyond = 0 if self.exact or not self.span_share else self.longest - 1
        return min(self.budget(words) + beyond, words)


class Slots(NamedTuple):
    """What stands behind a text, (B, M) each: for every slot an original and a pseudo mask.

    `steps` counts from 1; a slot at step 0 is empty: nothing sees it, and it predicts nothing.
    """

    places_BM: Tensor
    originals_BM: Tensor
    steps_BM: Tensor


class Masked(NamedTuple):
    """Corrupted texts (B, L), and their masked tokens in order of their places."""

    ids_BL: Tensor
    slots: Slots


def mask(ids_BL: Tensor, noise_BLN: Tensor, masking: Masking, special: SpecialIds, vocabulary: int) -> Masked:
    """Mask texts.

    Args:
        ids_BL: texts as [CLS] tokens [SEP], perhaps padded; special tokens are never masked.
        noise_BLN: uniform in [0, 1), `NOISE` numbers for each token.
    """
    steps_BL = prediction_steps(special.are_words(ids_BL), noise_BLN, masking)
    number = masking.slots(ids_BL.shape[1])
    places_BM = (steps_BL == 0).int().argsort(dim=1, stable=True)[:, :number]
    slots = Slots(places_BM, ids_BL.gather(1, places_BM), steps_BL.gather(1, places_BM))
    fate_BL, word_BL = noise_BLN[..., FATE], noise_BLN[..., WORD]
    return Masked(corrupted(ids_BL, steps_BL > 0, fate_BL, word_BL, masking.fates, special, vocabulary), slots)


def prediction_steps(words_BL: Tensor, noise_BLN: Tensor, masking: Masking) -> Tensor:
    """The step (B, L), from 1, at which each token is predicted; 0 where it is not masked.

    Algorithm 1: starts are uniform, a block is taken if none of its tokens is, until enough are masked. What reaches
    over the end of the text or over a special token is not taken. Where the proposals run out before, the rest are
    single tokens.

    Args:
        words_BL: which tokens may be masked.
    """
    length = words_BL.shape[1]
    words_B = words_BL.sum(1)
    budget_B = (masking.rate * words_B.double() - EXACT).ceil().clamp(min=1).minimum(words_B).long()
    starts_BP, lengths_BP = _proposals(noise_BLN, masking)
    offsets_S = torch.arange(masking.longest if masking.span_share else 1, device=words_BL.device)
    cells_BPS = starts_BP[..., None] + torch.minimum(offsets_S, lengths_BP[..., None] - 1)
    fits_BP = cells_BPS[..., -1] < length
    cells_BPS = cells_BPS.clamp(max=length - 1)
    free_BP = fits_BP & _at(words_BL, cells_BPS).all(-1)
    taken_BP = first_come(cells_BPS, free_BP, length)
    before_BP = (lengths_BP * taken_BP).cumsum(1) - lengths_BP * taken_BP
    left_BP = budget_B[:, None] - before_BP
    taken_BP = taken_BP & (left_BP > 0)
    if masking.exact:
        lengths_BP = torch.minimum(lengths_BP, left_BP)
    inside_BPS = taken_BP[..., None] & (offsets_S < lengths_BP[..., None])
    numbers_BPS = torch.where(inside_BPS, taken_BP.cumsum(1)[..., None], 0)
    steps_BL = torch.zeros_like(words_BL, dtype=torch.long)
    steps_BL.scatter_reduce_(1, cells_BPS.flatten(1), numbers_BPS.flatten(1), "amax")
    steps_BL = _filled(steps_BL, words_BL, budget_B, noise_BLN)
    return _ordered(steps_BL, masking, noise_BLN)


def first_come(cells_BPS: Tensor, free_BP: Tensor, length: int) -> Tensor:
    """Which blocks are taken (B, P) if one after the other each is that overlaps with none taken before.

    In rounds: whatever comes first at all of its places is taken, whatever overlaps with it is out. The rounds that
    this takes grow with the logarithm of P; those here are about twice as many as were ever needed.

    Args:
        cells_BPS: places of each block, some perhaps repeated.
        free_BP: which may be taken at all.
    """
    blocks = free_BP.shape[1]
    turn_BP = torch.arange(blocks, device=free_BP.device).expand_as(free_BP)
    cells = cells_BPS.flatten(1)
    waiting, taken = free_BP, torch.zeros_like(free_BP)
    for _ in range(2 * blocks.bit_length()):
        earliest_BL = turn_BP.new_full((len(cells), length), blocks)
        turns_BPS = torch.where(waiting, turn_BP, blocks)[..., None].expand_as(cells_BPS)
        earliest_BL.scatter_reduce_(1, cells, turns_BPS.flatten(1), "amin")
        won = waiting & (_at(earliest_BL, cells_BPS) == turn_BP[..., None]).all(-1)
        covered_BL = torch.zeros_like(earliest_BL)
        covered_BL.scatter_reduce_(1, cells, won[..., None].expand_as(cells_BPS).long().flatten(1), "amax")
        taken = taken | won
        waiting = waiting & ~won & ~_at(covered_BL.bool(), cells_BPS).any(-1)
    return taken


def _proposals(noise_BLN: Tensor, masking: Masking) -> tuple[Tensor, Tensor]:
    """First place and length of each proposed block, (B, P)."""
    batch, length, _ = noise_BLN.shape
    number = min(PROPOSALS * masking.budget(max(length - 2, 1)), 2 * length)
    where, kind, size = noise_BLN[..., :LEFT].reshape(batch, 2 * length, 3)[:, :number].unbind(-1)
    spans = 2 + (size * (masking.longest - 1)).long().clamp(max=masking.longest - 2)
    return (where * length).long().clamp(max=length - 1), torch.where(kind < masking.span_share, spans, 1)


def _filled(steps_BL: Tensor, words_BL: Tensor, budget_B: Tensor, noise_BLN: Tensor) -> Tensor:
    """With single tokens as further steps where fewer than the budget are masked."""
    masked_BL = steps_BL > 0
    missing_B = budget_B - masked_BL.sum(1)
    rank_BL = _rank(noise_BLN[..., LEFT], words_BL & ~masked_BL)
    more_BL = words_BL & ~masked_BL & (rank_BL < missing_B[:, None])
    return torch.where(more_BL, steps_BL.amax(1, keepdim=True) + 1 + rank_BL, steps_BL)


def _ordered(steps_BL: Tensor, masking: Masking, noise_BLN: Tensor) -> Tensor:
    """Blocks, or single tokens, in the order that is asked for; they come in that of their taking, which is random."""
    masked_BL = steps_BL > 0
    if masking.order == "random":
        return torch.where(masked_BL, _rank(noise_BLN[..., ORDER], masked_BL) + 1, 0) if masking.single else steps_BL
    before_BL = steps_BL.roll(1, 1)
    before_BL[:, 0] = 0
    begins_BL = masked_BL if masking.single else masked_BL & (steps_BL != before_BL)
    numbers_BL = begins_BL.cumsum(1)
    if masking.order == "right_to_left":
        numbers_BL = numbers_BL[:, -1:] + 1 - numbers_BL
    return torch.where(masked_BL, numbers_BL, 0)


def _rank(noise_BL: Tensor, among_BL: Tensor) -> Tensor:
    """Rank, from 0, of each token's noise among those chosen, which come before all others."""
    return noise_BL.masked_fill(~among_BL, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def _at(values_BL: Tensor, cells_BPS: Tensor) -> Tensor:
    return values_BL.gather(1, cells_BPS.flatten(1)).view_as(cells_BPS)
