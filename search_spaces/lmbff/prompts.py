"""From sentences to the batches of a few-shot model: which rows a query becomes under a setting, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from naslab.search_spaces.data.text import LabelledText, Sentences, demonstrations
from naslab.search_spaces.data.text.demonstrations import Indices
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer
from naslab.search_spaces.data.text.templates import Prompt, Template
from naslab.search_spaces.lmbff.chosen import Chosen

Batch: TypeAlias = dict[str, Tensor]
STEP = 16
"""Rows are padded to a multiple of so many tokens."""


@dataclass(frozen=True)
class Lengths:
    """Limits of a row, of the query's first sentence and of every other sentence, in tokens."""

    row: int
    first: int | None = None
    others: int | None = None


@dataclass(frozen=True)
class Prompter:
    """Makes rows of the sentences of one few-shot split. `words` are the numbers of the label words, one a class."""

    data: LabelledText
    tokenizer: PromptTokenizer
    lengths: Lengths
    chosen: Chosen
    template: Template
    words: tuple[int, ...]

    def row(self, part: Sentences, index: int, shown: Sequence[int] = ()) -> Prompt:
        """The row of a sentence, followed by the training examples `shown`."""
        labels, train, limits = self.data.train.labels, self.data.train, self.lengths
        examples = [(train.pair(number), self.words[int(labels[number])]) for number in shown]
        encode, special = self.tokenizer.encode, self.tokenizer.special
        return self.template.fill(
            encode, special, part.pair(index), examples, length=limits.row, first=limits.first, others=limits.others
        )

    def rows(self, part: Sentences) -> list[Prompt]:
        """The rows of all its sentences, without demonstrations."""
        return [self.row(part, index) for index in range(len(part))]

    def candidates(self, queries: int, similarity_QN: NDArray[np.float64] | None, training: bool) -> list[Indices]:
        """Of each query the training examples that may follow it; in training, queries are the examples themselves."""
        labels, rate = self.data.train.labels.numpy(), self.chosen.filter_rate
        return [
            demonstrations.candidates(
                labels, query if training else None, None if similarity_QN is None else similarity_QN[query], rate
            )
            for query in range(queries)
        ]

    def batch(self, rows: Sequence[Prompt], length: int | None = None) -> Batch:
        """Tensors of some rows, padded to the longest or to `length`; see `FewShotModel.forward`."""
        longest = length or min(-(-max(len(row.ids) for row in rows) // STEP) * STEP, self.lengths.row)
        ids = torch.full((len(rows), longest), self.tokenizer.special.pad)
        segments = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids)
            segments[number, : len(row.ids)] = torch.tensor(row.segments)
        words = torch.tensor(self.words).expand(len(rows), -1).contiguous()
        return {"ids": ids, "segments": segments, "at": torch.tensor([row.mask for row in rows]), "words": words}

    def batches(self, rows: Sequence[Prompt], size: int) -> Iterator[tuple[list[int], Batch]]:
        """All rows, those of like length together, each batch with the numbers of its rows."""
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            yield numbers, self.batch([rows[number] for number in numbers])
