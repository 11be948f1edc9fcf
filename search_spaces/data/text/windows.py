"""From a vector of tokens to batches of windows.

Every batch is a function of (seed, step), so that training can be taken up at any step. Names: B windows, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from naslab.search_spaces.data.text.byte_pairs import BEGIN
from naslab.search_spaces.seeds import derive_seed

Batch: TypeAlias = dict[str, Tensor]
EVALUATION_BATCH = 64
IGNORED = -100
"""Target where nothing is to be predicted, as PyTorch's cross entropy has it."""


def window_starts(tokens: int, span: int, batch_size: int, seed: int, step: int, per_pass: int) -> Tensor:
    """Starts (B) of the windows of a step: each pass cuts the text at a random offset and shuffles the pieces."""
    number = step // per_pass
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", number))
    spare = tokens - per_pass * batch_size * span
    offset = int(torch.randint(min(spare + 1, span), (1,), generator=generator))
    order = torch.randperm((tokens - offset) // span, generator=generator)
    at = (step % per_pass) * batch_size
    return order[at : at + batch_size] * span + offset


def shuffled_rows(rows: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The numbers of the rows of a step: pass after pass through all, each in a new order."""
    begin, end = step * batch_size, (step + 1) * batch_size
    orders = []
    for number in range(begin // rows, -(-end // rows)):
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", number))
        orders.append(torch.randperm(rows, generator=generator))
    whole: list[int] = torch.cat(orders).tolist()
    return whole[begin % rows :][:batch_size]


class CausalBatches:
    """Windows of L tokens, each the next one's target."""

    def __init__(self, batch_size: int, length: int) -> None:
        self.batch_size, self.length = batch_size, length
        self.tokens = batch_size * length

    def least_tokens(self) -> int:
        """The shortest text that gives a batch."""
        return self.tokens + 1

    def per_pass(self, tokens_N: Tensor) -> int:
        """Whole batches in one pass through a text."""
        return max((len(tokens_N) - 1) // self.tokens, 0)

    def batch(self, tokens_N: Tensor, seed: int, step: int, per_pass: int) -> Batch:
        """The batch of a step."""
        starts = window_starts(len(tokens_N) - 1, self.length, self.batch_size, seed, step, per_pass)
        windows = tokens_N[starts[:, None] + torch.arange(self.length + 1)]
        return {"tokens": windows[:, :-1], "targets": windows[:, 1:]}

    def evaluation(self, tokens_N: Tensor, windows: int | None) -> Iterator[Batch]:
        """Every token once as a target, the first after the begin token; the last window is filled with IGNORED."""
        number = -(-len(tokens_N) // self.length)
        inputs = torch.full((number * self.length,), BEGIN)
        inputs[1 : len(tokens_N)] = tokens_N[:-1]
        targets = torch.full_like(inputs, IGNORED)
        targets[: len(tokens_N)] = tokens_N
        rows = slice(0, windows)
        pairs = zip(
            inputs.view(number, -1)[rows].split(EVALUATION_BATCH),
            targets.view(number, -1)[rows].split(EVALUATION_BATCH),
            strict=True,
        )
        for tokens_BL, targets_BL in pairs:
            yield {"tokens": tokens_BL, "targets": targets_BL}
