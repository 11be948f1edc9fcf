"""Batches of span corruption; each is a function of (seed, step), so that training can be taken up at any step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from naslab.search_spaces.common.objectives.spans import corrupt, span_shape
from naslab.search_spaces.data.text import BEGIN, END, EVALUATION_BATCH, FIRST_SENTINEL, IGNORED, Batch, window_starts
from naslab.search_spaces.seeds import derive_seed

EVALUATION_SEED = 20230125


class SpanBatches:
    """Span corruption: for an encoder and a decoder, or, as a prefix, inputs and targets one after the other.

    Raises:
        InputError: the length is too short for a span.
    """

    def __init__(self, batch_size: int, length: int, noise_density: float, mean_span: float, prefix: bool) -> None:
        self.batch_size, self.prefix = batch_size, prefix
        self.shape = span_shape(length, noise_density, mean_span)
        self.tokens = batch_size * self.shape.raw

    def least_tokens(self) -> int:
        """The shortest text that gives a batch."""
        return self.tokens

    def per_pass(self, tokens_N: Tensor) -> int:
        """Whole batches in one pass through a text."""
        return len(tokens_N) // self.tokens

    def batch(self, tokens_N: Tensor, seed: int, step: int, per_pass: int) -> Batch:
        """The batch of a step."""
        starts = window_starts(len(tokens_N), self.shape.raw, self.batch_size, seed, step, per_pass)
        windows = tokens_N[starts[:, None] + torch.arange(self.shape.raw)]
        return self._corrupted(windows, np.random.default_rng(derive_seed(seed, "spans", step)))

    def evaluation(self, tokens_N: Tensor, windows: int | None) -> Iterator[Batch]:
        """Whole windows of a part, corrupted the same way every time; a part shorter than one is repeated."""
        raw = self.shape.raw
        whole = tokens_N if len(tokens_N) >= raw else tokens_N.repeat(-(-raw // len(tokens_N)))
        number = len(whole) // raw
        rows = whole[: number * raw].view(number, raw)[slice(0, windows)]
        rng = np.random.default_rng(EVALUATION_SEED)
        for part in rows.split(EVALUATION_BATCH):
            yield self._corrupted(part, rng)

    def _corrupted(self, windows_BR: Tensor, rng: np.random.Generator) -> Batch:
        arrays = corrupt(windows_BR.numpy(), self.shape, FIRST_SENTINEL, END, rng)
        inputs, targets = (torch.from_numpy(array) for array in arrays)
        begin = torch.full((len(targets), 1), BEGIN)
        shifted = torch.cat([begin, targets[:, :-1]], 1)
        if not self.prefix:
            return {"tokens": inputs, "decoder_tokens": shifted, "targets": targets}
        return {
            "tokens": torch.cat([inputs, shifted], 1),
            "targets": torch.cat([torch.full_like(inputs, IGNORED), targets], 1),
        }
