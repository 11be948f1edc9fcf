"""A collator of whole words for training loops of others, such as transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.common.objectives.masked_units import Budget, Fates, mask_units
from naslab.search_spaces.data.text import SpecialIds


class WholeWordCollator:
    """Pads texts to the longest of a batch and masks whole words under an exact budget.

    Each text is a mapping with `input_ids`, special tokens included, and `words`: the number of each token's word,
    rising, and -1 or None for special tokens. `words` is what `word_ids()` of transformers' fast tokenizers gives for
    English; for Chinese it comes from a segmenter, see `TextTokenizer.words`.

    Args:
        vocabulary: random tokens are drawn below this number.
        seed: decides all masks, batch after batch.
    """

    def __init__(
        self, special: SpecialIds, vocabulary: int, budget: Budget, fates: Fates | None = None, seed: int = 0
    ) -> None:
        self.special, self.vocabulary, self.budget, self.fates = special, vocabulary, budget, fates or Fates()
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, texts: Sequence[Mapping[str, Sequence[int | None]]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels`, each (B, L), int64.

        Raises:
            InputError: no text, or a text whose tokens and words are not as many.
        """
        if not texts:
            raise InputError("texts: none; a batch needs one or more")
        for number, text in enumerate(texts, 1):
            if len(text["input_ids"]) != len(text["words"]):
                raise InputError(
                    f"text {number}: {len(text['input_ids'])} tokens, but {len(text['words'])} numbers of words"
                )
        ids_BL = _padded([text["input_ids"] for text in texts], self.special.pad, np.int64)
        words_BL = _padded([text["words"] for text in texts], -1, np.float64)
        noise_4BL = torch.rand(4, *ids_BL.shape, generator=self._generator)
        masked = mask_units(ids_BL, words_BL, noise_4BL, self.budget, self.fates, self.special, self.vocabulary)
        attended_BL = ids_BL.ne(self.special.pad).long()
        return {"input_ids": masked.ids_BL, "attention_mask": attended_BL, "labels": masked.labels_BL}


def _padded(rows: Sequence[Sequence[int | None]], filling: int, read_as: type[np.int64 | np.float64]) -> Tensor:
    """Rows of one length, int64. Read as floats, None becomes what fills up; integers are read faster."""
    longest = max(map(len, rows))
    if all(len(row) == longest for row in rows):
        found = np.array(rows, read_as)
    else:
        found = np.full((len(rows), longest), filling, read_as)
        for padded, numbers in zip(found, rows, strict=True):
            padded[: len(numbers)] = numbers
    return torch.from_numpy(np.nan_to_num(found, copy=False, nan=filling).astype(np.int64, copy=False))
