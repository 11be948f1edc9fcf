"""A collator of whole words for training loops of others, such as transformers' Trainer."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.common.objectives.fates import PUBLISHED, Fates
from naslab.search_spaces.common.objectives.masked_units import Budget, mask_units, run_index
from naslab.search_spaces.data.text import SpecialIds


class WholeWordCollator:
    """Pads texts to the longest of a batch and masks whole words under an exact budget.

    Each text is a mapping with `input_ids`, special tokens included, and `words`: the number of each token's word,
    and -1 or None for special tokens; side by side, equal numbers are a word. `words` is what `word_ids()` of
    transformers' fast tokenizers gives for English, also for pairs of texts, where it begins anew; for Chinese it comes
    from a segmenter, see `TextTokenizer.words`.

    Args:
        vocabulary: random tokens are drawn below this number.
        seed: decides all masks, batch after batch.
        multiple_of: texts are padded to a multiple of so many tokens.

    Raises:
        InputError: special tokens that are alike, or leave no words in the vocabulary; a multiple below 1.
    """

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        budget: Budget,
        fates: Fates = PUBLISHED,
        seed: int = 0,
        multiple_of: int = 1,
    ) -> None:
        if not special.fit(vocabulary):
            raise InputError(f"special: {special} must differ and leave words in a vocabulary of {vocabulary}")
        if multiple_of < 1:
            raise InputError(f"multiple_of: {multiple_of}; texts are padded to a multiple of 1 or more tokens")
        self.special, self.vocabulary, self.budget, self.fates = special, vocabulary, budget, fates
        self.multiple_of = multiple_of
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, texts: Sequence[Mapping[str, Sequence[int | None]]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels`, each (B, L), int64.

        Raises:
            InputError: no text, or a text without tokens, without words, or with another number of them.
        """
        if not texts:
            raise InputError("texts: none; a batch needs one or more")
        for number, text in enumerate(texts, 1):
            for name in ("input_ids", "words"):
                if name not in text:
                    raise InputError(f"text {number}: has no {name!r}")
                if not hasattr(text[name], "__len__"):
                    raise InputError(f"text {number}: {name!r} is no row of numbers, but {text[name]!r}")
            if len(text["input_ids"]) != len(text["words"]):
                raise InputError(
                    f"text {number}: {len(text['input_ids'])} tokens, but {len(text['words'])} numbers of words"
                )
        length = max(len(text["input_ids"]) for text in texts)
        length += -length % self.multiple_of
        ids_BL = _padded([text["input_ids"] for text in texts], length, self.special.pad)
        index_BL = run_index(_padded([text["words"] for text in texts], length, -1))
        noise_4BL = torch.rand(4, *ids_BL.shape, generator=self._generator)
        masked = mask_units(ids_BL, index_BL, noise_4BL, self.budget, self.fates, self.special, self.vocabulary)
        attended_BL = ids_BL.ne(self.special.pad).long()
        return {"input_ids": masked.ids_BL, "attention_mask": attended_BL, "labels": masked.labels_BL}


def _padded(rows: Sequence[Sequence[int | None]], length: int, filling: int) -> Tensor:
    """Rows of one length, int64; None becomes what fills up."""
    padded = np.full((len(rows), length), filling, np.int64)
    for number, (place, numbers) in enumerate(zip(padded, rows, strict=True), 1):
        try:
            place[: len(numbers)] = _numbers(numbers, filling)
        except (TypeError, ValueError):
            raise InputError(
                f"text {number}: tokens and words are rows of whole numbers, not {numbers!r:.60}"
            ) from None
    return torch.from_numpy(padded)


def _numbers(row: Sequence[int | None], filling: int) -> np.ndarray:
    """A row as int64. NumPy reads a list at half the speed of `struct`, which takes integers alone."""
    if isinstance(row, list | tuple):
        numbers = list(row)
        for end in (0, -1) if numbers else ():  # where None stands most often, as special tokens do
            numbers[end] = filling if numbers[end] is None else numbers[end]
        with suppress(struct.error):
            return np.frombuffer(struct.pack(f"{len(numbers)}q", *numbers), np.int64)
    return np.nan_to_num(np.asarray(row, np.float64), nan=filling).astype(np.int64)
