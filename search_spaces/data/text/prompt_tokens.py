"""A transformers tokenizer as prompts need it: texts without special tokens, and words that are one token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import BertTokenizer

from naslab.errors import InputError
from naslab.search_spaces.data.text.hub_tokenizers import PROBE, load_tokenizer, number_range, plain_ids
from naslab.search_spaces.data.text.wordpiece import SpecialIds, train_wordpiece

BEGINNINGS = ("Ġ", "▁")
"""What begins a word in byte-level BPE and in SentencePiece."""


class PromptTokenizer:
    """Texts to token numbers, each text encoded once.

    Raises:
        InputError: it lacks a special token that prompts need; `where` names the option.
    """

    def __init__(self, tokenizer: Any, where: str) -> None:
        numbers = {key: getattr(tokenizer, f"{key}_token_id") for key in ("pad", "cls", "sep", "mask", "unk")}
        for key, number in numbers.items():
            if number is None:
                raise InputError(f"{where}: the tokenizer has no {key} token, which prompts need; use a masked LM's")
        self.tokenizer, self.special = tokenizer, SpecialIds(**numbers)
        self._known: dict[str, list[int]] = {}
        self._numbers = number_range(tokenizer.get_vocab())

    def __len__(self) -> int:
        """One more than the largest token number."""
        return self._numbers

    def encode(self, text: str) -> list[int]:
        """Token numbers without special ones: where a text spells `[MASK]`, it is text."""
        if text not in self._known:
            self.read([text])
        return self._known[text]

    def read(self, texts: Sequence[str]) -> None:
        """Encode many at once, for later."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self.encode_all(new), strict=True))

    def read_worded(self, texts: Sequence[str], where: str) -> None:
        """Encode many at once; each must have a word.

        Raises:
            InputError: one has none; `where` says whose they are.
        """
        self.read(texts)
        for number, text in enumerate(texts, 1):
            if not self.encode(text):
                raise InputError(f"{where}: text {number} has no words: {text!r}")

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts to token numbers, which are not kept."""
        return plain_ids(self.tokenizer, texts)

    def word(self, word: str) -> int:
        """The number of a word, as it stands after a space; of words written without spaces that of the word alone.

        Raises:
            InputError: it is not one token.
        """
        ids = self.encode(f" {word}")
        if len(ids) == 2 and self.tokenizer.convert_ids_to_tokens(ids[0]) in BEGINNINGS:
            ids = ids[1:]  # the space alone: of text without spaces the word is a token without one
        if ids == [self.special.unk]:
            raise InputError(f"label word {word!r}: is not in the vocabulary; use another")
        if len(ids) != 1:
            shown = " ".join(self.tokenizer.convert_ids_to_tokens(ids)) or "none"
            raise InputError(f"label word {word!r}: is {len(ids)} tokens ({shown}); use a word that is one token")
        return ids[0]

    def words(self, words: Sequence[str], where: str) -> tuple[int, ...]:
        """The numbers of words that stand for classes.

        Raises:
            InputError: one is not one token, or two are the same; `where` is the option that gives them.
        """
        try:
            found = tuple(map(self.word, words))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if len(set(found)) < len(found):
            raise InputError(f"{where}: {'/'.join(words)}: two are the same token")
        return found

    def whole_words(self, size: int) -> NDArray[np.bool_]:
        """Which of `size` token numbers begin a word, or of a WordPiece are a word."""
        special, mark = set(self.tokenizer.all_special_tokens), self._beginning
        found = np.zeros(max(size, len(self)), dtype=bool)
        for token, number in self.tokenizer.get_vocab().items():
            found[number] = token not in special and (token.startswith(mark) if mark else token.isalpha())
        return found[:size]

    @cached_property
    def _beginning(self) -> str:
        """What begins a word here; nothing in a WordPiece, among whose letters these marks may be, too."""
        tokens = [self.tokenizer.convert_ids_to_tokens(ids) for ids in map(self.encode, (f" {word}" for word in PROBE))]
        return next((mark for mark in BEGINNINGS if any(row and row[0].startswith(mark) for row in tokens)), "")

    def save(self, folder: Path) -> None:
        """Write it as transformers loads it."""
        self.tokenizer.save_pretrained(folder)


def trained_tokenizer(texts: Sequence[str], vocabulary: int, words: Sequence[str]) -> PromptTokenizer:
    """A WordPiece of at most `vocabulary` tokens, trained on texts, in which each of `words` is one token.

    Raises:
        InputError: too small a vocabulary, or a word that is no single word.
    """
    wanted = list(dict.fromkeys(word.lower() for word in words))
    learned = dict(train_wordpiece(texts, vocabulary, SpecialIds(), 2, room=len(wanted)).vocabulary)
    for word in wanted:
        learned.setdefault(word, len(learned))
    return PromptTokenizer(BertTokenizer(vocab=learned), "space.options.vocabulary")


def named_prompt_tokenizer(name: str, config: Any) -> PromptTokenizer:
    """The tokenizer of a model on the hub, in a folder, or in the package of MiniLM.

    Args:
        config: of the model.

    Raises:
        InputError: there is none, it has no mask token, or is not the model's.
    """
    found = PromptTokenizer(load_tokenizer(name, "space.options.encoder"), f"space.options.encoder: {name}")
    vocabulary, pad = config.vocab_size, getattr(config, "pad_token_id", None)
    if len(found) > vocabulary or found.special.pad != pad:
        raise InputError(
            f"space.options.encoder: {name}: the tokenizer has {len(found)} tokens and pads with {found.special.pad}, "
            f"the model has {vocabulary} and {pad}; use a tokenizer and a configuration that belong together"
        )
    return found
