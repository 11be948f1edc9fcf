"""Adaptation: a masked language model goes on learning from text without labels, before prompts ask it for words."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.search_spaces.common.modules.language_models import check_positions, words_head
from naslab.search_spaces.common.objectives.masked_words import MaskedWords, mask_words
from naslab.search_spaces.common.objectives.vocabulary_loss import vocabulary_loss
from naslab.search_spaces.common.training.optimisers import adamw
from naslab.search_spaces.common.training.schedule import set_learning_rate
from naslab.search_spaces.data.placing import sent
from naslab.search_spaces.data.text import IGNORED, SpecialIds, TextOptions, read_corpus, window_starts
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.task import TrainingDiverged

WARMUP = 0.06
FEW_LINES = 64
"""Lines that are tokenized at once to see whether a text is long enough."""


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
        InputError: its windows are longer than the models' positions, or the text is missing, or too short for a batch.
    """

    def __init__(self, options: AdaptationOptions, tokenizer: PromptTokenizer, config: Any) -> None:
        check_positions(config, options.length, "task.adaptation.length")
        with data_of("task.adaptation.text"):
            check_text(options, tokenizer.encode_all)
        self.options, self.tokenizer = options, tokenizer

    @cached_property
    def tokens_N(self) -> Tensor:
        """See `corpus_tokens`."""
        return corpus_tokens(self.options, self.tokenizer.encode_all)

    def __call__(self, language_model: Any, seed: int) -> float:
        """Adapt a model; see `adapt`. Global generators go on from the seed."""
        seed_everything(derive_seed(seed, "adaptation"))
        return adapt(language_model, self.tokenizer.special, self.tokens_N, self.options, seed)


Encode: TypeAlias = Callable[[list[str]], list[list[int]]]
"""Texts to token numbers, without special ones."""


def check_text(options: AdaptationOptions, encode: Encode) -> None:
    """Refuse a text that is too short; of a long one only the beginning is tokenized.

    Raises:
        InputError: it has no more tokens than a batch, or is missing.
    """
    lines, tokens = _lines(options), 0
    for start in range(0, len(lines), FEW_LINES):
        tokens += sum(map(len, encode(lines[start : start + FEW_LINES])))
        if tokens > options.batch_size * options.length:
            return
    least = options.batch_size * options.length + 1
    raise InputError(f"data: has {tokens} tokens; a batch alone needs {least}")


def corpus_tokens(options: AdaptationOptions, encode: Encode) -> Tensor:
    """All tokens (N) of the text, line after line."""
    return torch.tensor([number for line in encode(_lines(options)) for number in line])


def _lines(options: AdaptationOptions) -> list[str]:
    return [line for line in read_corpus(options.text).splitlines() if line.strip()]


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
        batch = (sent(part, device) for part in at_places(mask_words(ids, noise, options.masked, special, size)))
        set_learning_rate(optimiser, step / options.steps, WARMUP)
        loss = masked_loss(language_model, *batch)
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


def at_places(masked: MaskedWords) -> tuple[Tensor, Tensor, Tensor]:
    """Texts (B, L), places of their hidden words and what these are, both (B, M); IGNORED where a text has fewer."""
    hidden = masked.labels_BL != IGNORED
    places_BM = hidden.int().argsort(dim=1, descending=True, stable=True)[:, : int(hidden.sum(1).max())]
    return masked.ids_BL, places_BM, masked.labels_BL.gather(1, places_BM)


def masked_loss(language_model: Any, ids_BL: Tensor, places_BM: Tensor, labels_BM: Tensor) -> Tensor:
    """Mean cross-entropy over the hidden words; where the model's kind is known, only those go through its head.

    Places are numbers, no mask: how many a mask chooses the host would have to ask of the device.
    """
    head = words_head(language_model)
    found = language_model(ids_BL).logits if head is None else language_model.base_model(ids_BL)[0]
    chosen = found.gather(1, places_BM[..., None].expand(-1, -1, found.shape[-1]))
    return vocabulary_loss(chosen if head is None else head(chosen), labels_BM, "mean")
