"""Adaptation: a masked language model goes on learning from text without labels, before prompts ask it for words."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.search_spaces.common.modules.language_models import check_positions, words_head
from naslab.search_spaces.common.objectives.masked_words import mask_words
from naslab.search_spaces.common.objectives.vocabulary_loss import vocabulary_loss
from naslab.search_spaces.common.training.optimisers import adamw
from naslab.search_spaces.common.training.schedule import set_learning_rate
from naslab.search_spaces.data.text import IGNORED, SpecialIds, TextOptions, read_corpus, window_starts
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.task import TrainingDiverged

WARMUP = 0.06


class AdaptationOptions(Options):
    """Text and budget."""

    text: TextOptions = TextOptions(corpus="imdb")
    steps: int = Field(gt=0)
    batch_size: int = Field(32, ge=1)
    length: int = Field(64, ge=4, le=2**14)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    """Rises over a sixteenth of the steps and falls to 0 along a cosine."""
    masked: float = Field(0.15, gt=0, lt=1)
    """Share of the words that are hidden."""

    @property
    def tokens(self) -> int:
        """Tokens that the model sees."""
        return self.steps * self.batch_size * self.length


class Adaptation:
    """A text to adapt the models of a study to, tokenized when the first asks for it.

    Raises:
        InputError: its windows are longer than the models' positions, or there is no such text.
    """

    def __init__(self, options: AdaptationOptions, tokenizer: PromptTokenizer, config: Any) -> None:
        check_positions(config, options.length, "task.adaptation.length")
        with data_of("task.adaptation.text"):
            read_corpus(options.text)
        self.options, self.tokenizer = options, tokenizer

    @cached_property
    def tokens_N(self) -> Tensor:
        """See `corpus_tokens`."""
        return corpus_tokens(self.options, self.tokenizer.encode_all)

    def __call__(self, language_model: Any, seed: int) -> float:
        """Adapt a model; see `adapt`. Global generators go on from the seed."""
        seed_everything(derive_seed(seed, "adaptation"))
        return adapt(language_model, self.tokenizer.special, self.tokens_N, self.options, seed)


def corpus_tokens(options: AdaptationOptions, encode: Callable[[list[str]], list[list[int]]]) -> Tensor:
    """All tokens (N) of the text, line after line.

    Args:
        encode: texts to token numbers, without special ones.

    Raises:
        InputError: the text is missing, or too short for a batch.
    """
    lines = [line for line in read_corpus(options.text).splitlines() if line.strip()]
    tokens = torch.tensor([number for line in encode(lines) for number in line])
    if len(tokens) <= (least := options.batch_size * options.length):
        raise InputError(f"task.adaptation.text: has {len(tokens)} tokens; a batch alone needs {least}")
    return tokens


def adapt(language_model: Any, special: SpecialIds, tokens_N: Tensor, options: AdaptationOptions, seed: int) -> float:
    """Train a masked language model in place, on its device; mean loss over the last tenth of the steps, in nats.

    Raises:
        TrainingDiverged: that is not finite.
    """
    device = next(language_model.parameters()).device
    optimiser = adamw(language_model.named_parameters(), options.learning_rate, 0.01, (0.9, 0.98))
    span = options.length - 2
    per_pass = (len(tokens_N) - 1) // (span * options.batch_size)
    size = language_model.config.vocab_size
    language_model.train()
    late, losses = options.steps - max(options.steps // 10, 1), []
    for step in range(options.steps):
        generator = torch.Generator().manual_seed(derive_seed(seed, "masks", step))
        starts = window_starts(len(tokens_N), span, options.batch_size, derive_seed(seed, "windows"), step, per_pass)
        ids = F.pad(tokens_N[starts[:, None] + torch.arange(span)], (1, 0), value=special.cls)
        ids = F.pad(ids, (0, 1), value=special.sep)
        noise = torch.rand(*ids.shape, 3, generator=generator)
        hidden, labels = (part.to(device) for part in mask_words(ids, noise, options.masked, special, size))
        set_learning_rate(optimiser, step / options.steps, WARMUP)
        loss = masked_loss(language_model, hidden, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(language_model.parameters(), 1.0)
        optimiser.step()
        if step >= late:
            losses.append(loss.detach())
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise TrainingDiverged(f"the loss of the adaptation is {mean}; lower task.adaptation.learning_rate")
    return mean


def masked_loss(language_model: Any, ids_BL: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean cross-entropy over the hidden words; where the model's kind is known, only those go through its head."""
    head = words_head(language_model)
    there = labels_BL != IGNORED
    if head is None:
        return vocabulary_loss(language_model(ids_BL).logits[there], labels_BL[there], "mean")
    return vocabulary_loss(head(language_model.base_model(ids_BL)[0][there]), labels_BL[there], "mean")
