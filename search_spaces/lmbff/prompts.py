"""From sentences to the batches of a few-shot model: which rows a query becomes under a setting, and their tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from naslab.search_spaces.data.text import LabelledText, Sentences, demonstrations
from naslab.search_spaces.data.text.demonstrations import Indices
from naslab.search_spaces.data.text.padded import padded
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer
from naslab.search_spaces.data.text.templates import Limits, Prompt, Template
from naslab.search_spaces.lmbff.chosen import Chosen

Batch: TypeAlias = dict[str, Tensor]
Similarity: TypeAlias = Callable[[Sentences, Sentences], NDArray[np.float64]]
"""Cosines (Q, N) of one part's sentences with another's."""
STEP = 16
"""Rows are padded to a multiple of so many tokens."""
ASKED = 64
"""Rows of a batch that is scored."""


@dataclass(frozen=True)
class Prompter:
    """Makes rows of the sentences of one few-shot split. `words` are the numbers of the label words, one a class."""

    data: LabelledText
    tokenizer: PromptTokenizer
    limits: Limits
    chosen: Chosen
    template: Template
    words: tuple[int, ...]
    similarity: Similarity

    def row(self, part: Sentences, index: int, shown: Sequence[int] = ()) -> Prompt:
        """The row of a sentence, followed by the training examples `shown`."""
        train, tokenizer = self.data.train, self.tokenizer
        examples = [(train.pair(number), self.words[int(train.labels[number])]) for number in shown]
        return self.template.fill(tokenizer.encode, tokenizer.special, part.pair(index), self.limits, examples)

    def rows(
        self, part: Sentences, indices: Sequence[int], allowed: Sequence[Indices], rng: np.random.RandomState
    ) -> list[Prompt]:
        """The rows of some sentences, each with one training example of each class that is allowed, drawn at random."""
        labels = self.data.train.labels.numpy()
        return [self.row(part, index, demonstrations.draw(allowed[index], labels, rng)) for index in indices]

    def allowed(self, part: Sentences, training: bool) -> list[Indices]:
        """Of each sentence the training examples that may follow it; in training, `part` are the examples themselves.

        None where the configuration has no demonstrations.
        """
        if self.chosen.demonstrations == "none":
            return [np.empty(0, dtype=np.int64)] * len(part)
        labels, rate = self.data.train.labels.numpy(), self.chosen.filter_rate
        similar = self.similarity(part, self.data.train) if self.chosen.demonstrations == "similar" else None
        return [
            demonstrations.candidates(
                labels, query if training else None, None if similar is None else similar[query], rate
            )
            for query in range(len(part))
        ]

    def batch(self, rows: Sequence[Prompt], length: int | None = None) -> Batch:
        """Tensors of some rows, padded to the longest or to `length`; see `FewShotModel.forward`."""
        longest = length or min(-(-max(len(row.ids) for row in rows) // STEP) * STEP, self.limits.row)
        return {
            "ids": padded([row.ids for row in rows], self.tokenizer.special.pad, longest),
            "segments": padded([row.segments for row in rows], 0, longest),
            "at": torch.tensor([row.mask for row in rows]),
            "words": torch.tensor(self.words).expand(len(rows), -1).contiguous(),
        }

    def answers(self, rows: Sequence[Prompt], ask: Callable[[Batch], Tensor]) -> Tensor:
        """What `ask` says of each row, on the CPU in float32; rows of like length are asked together."""
        order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
        parts = (order[start : start + ASKED] for start in range(0, len(order), ASKED))
        found = torch.cat([ask(self.batch([rows[number] for number in part])).float().cpu() for part in parts])
        return found[torch.tensor(order).argsort()]
