"""What the task reads: a corpus to hide words of, and labelled sentences to score on, under one tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.text import (
    LabelledText,
    SentenceOptions,
    SpecialIds,
    TaggedOptions,
    TaggedTexts,
    TextTokenizer,
    TokenRow,
    load_sentences,
    load_tagged,
    pretrained_tokenizer,
    train_wordpiece,
)
from naslab.search_spaces.data.text.hub_tokenizers import number_range
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.splits import Splits

RARE = 5
"""A letter or Chinese character that occurs less often in training is unknown."""


@dataclass(frozen=True)
class Labelled:
    """Sentences as tokens (N, L), and their classes (N,)."""

    ids_NL: Tensor
    labels_N: Tensor


@dataclass(frozen=True)
class WholeWordData:
    """Rows of tokens, labelled sentences, tags that training knows, and the tokenizer."""

    texts: TaggedTexts
    rows: Splits[TokenRow]
    sentences: LabelledText
    labelled: Splits[Labelled]
    tags: tuple[str, ...]
    tokenizer: TextTokenizer


def load_data(
    corpus: TaggedOptions, sentences: SentenceOptions, pretrained: str | None, vocabulary: int, length: int
) -> WholeWordData:
    """Read and tokenize. The tokenizer is the pre-trained model's, or learns from both training parts.

    Args:
        vocabulary: tokens that the model knows.
        length: tokens of a sentence, special ones included; longer ones are cut.

    Raises:
        InputError: what cannot be read, has no words, or does not fit the vocabulary.
    """
    with data_of("task.corpus"):
        texts = load_tagged(corpus)
    with data_of("task.sentences"):
        labelled = load_sentences(sentences)
    if labelled.train.seconds:
        raise InputError("task.sentences: pairs of sentences are not read here; use single sentences")
    tokenizer = _tokenizer(texts, labelled, pretrained, vocabulary, length)
    rows = (TokenRow(part, tokenizer) for part in (texts.train, texts.validation, texts.test))
    tags = tuple(sorted({tag for text in texts.train for tag in text.tags}))
    parts = (labelled.train, labelled.validation, labelled.test)
    tokens = (Labelled(tokenizer.worded(part.texts, "task.sentences"), part.labels) for part in parts)
    return WholeWordData(texts, Splits(*rows), labelled, Splits(*tokens), tags, tokenizer)


def _tokenizer(
    texts: TaggedTexts, labelled: LabelledText, pretrained: str | None, vocabulary: int, length: int
) -> TextTokenizer:
    if pretrained is None:
        words = [*(text.text for text in texts.train), *labelled.train.texts]
        return train_wordpiece(words, vocabulary, SpecialIds(), length, RARE)
    found = pretrained_tokenizer(pretrained, length, "space.options.pretrained")
    if (numbers := number_range(found.vocabulary)) > vocabulary:
        raise InputError(
            f"space.options.pretrained: the tokenizer of {pretrained} has {numbers} tokens, its model {vocabulary}"
        )
    return found


def words_of_several_tokens(words_NL: Tensor, index_NL: Tensor, lengths_NU: Tensor) -> Tensor:
    """The numbers of words of two tokens or more, -1 elsewhere, (N, L)."""
    several = lengths_NU.gather(1, index_NL.clamp(min=0)) > 1
    return torch.where(several & (index_NL >= 0), words_NL, -1)
