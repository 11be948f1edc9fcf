"""Adaptation: a masked language model goes on learning from text without labels, before prompts ask it for words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.search_spaces.common.modules.language_models import check_positions, words_head
from naslab.search_spaces.common.objectives.hidden_places import at_places, hidden_places
from naslab.search_spaces.common.objectives.masked_words import mask_words
from naslab.search_spaces.common.objectives.vocabulary_loss import vocabulary_loss
from naslab.search_spaces.common.training.choice import Training, Wanted, policy_for
from naslab.search_spaces.common.training.optimisers import adamw
from naslab.search_spaces.common.training.policy import Policy
from naslab.search_spaces.common.training.schedule import set_learning_rate
from naslab.search_spaces.common.training.step import Stepper, accumulate
from naslab.search_spaces.common.training.together import gathered, mean_values, rank
from naslab.search_spaces.data.placing import sent
from naslab.search_spaces.data.text import SpecialIds, TextOptions, read_corpus, window_starts
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.task import TrainingDiverged

WARMUP = 0.06
CLIP_NORM = 1.0
FEW_LINES = 64
"""Lines that are tokenized at once to see whether a text is long enough."""


class AdaptationOptions(Options):
    """Text and budget."""

    text: TextOptions = TextOptions(corpus="imdb")
    steps: int = Field(gt=0)
    batch_size: int = Field(32, ge=1)
    length: int = Field(64, ge=4, le=2**14)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    """Rises over the first 6 % of the steps and falls to 0 along a cosine."""
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

    def __call__(self, language_model: Any, seed: int, wanted: Wanted) -> Adapted:
        """Adapt a model; see `adapt`. Global generators go on from the seed, in each process from another.

        Args:
            wanted: what is asked of the trainings that follow. The adaptation is measured by itself, as its steps are
                others. Compiled it is only where that is asked for: to try it takes a minute or more.
        """
        seed_everything(derive_seed(seed, "adaptation", *([rank()] if rank() else [])))
        own = wanted.of(self.options.steps, adaptation=True).without("compile")
        return adapt(language_model, self.tokenizer.special, self.tokens_N, self.options, seed, own)


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


class Adapted(NamedTuple):
    """What an adaptation came to: its mean loss over the last tenth of the steps, in nats, and how its steps ran."""

    loss: float
    policy: Policy


def adapt(
    language_model: Any,
    special: SpecialIds,
    tokens_N: Tensor,
    options: AdaptationOptions,
    seed: int,
    wanted: Wanted | None = None,
) -> Adapted:
    """Train a masked language model in place, on its device.

    All texts of a batch have as many hidden words, as the windows are of words alone: a batch's mean over these is the
    mean over its parts, which gradient accumulation and several processes take.

    Args:
        wanted: the policy that is asked for; None: plain PyTorch.

    Raises:
        TrainingDiverged: the loss is not finite, or no gradient is in float16.
    """
    optimiser = adamw(language_model.named_parameters(), options.learning_rate, 0.01, (0.9, 0.98))
    batches = _Batches(special, tokens_N, options, seed, language_model.config.vocab_size)
    policy = policy_for(wanted, Training(language_model, optimiser, batches, _loss, CLIP_NORM))
    step = Stepper(language_model, optimiser, _loss, policy, CLIP_NORM)
    step.model.train()
    with policy.blocks(step.model):
        late = _mean_of_late(step, batches(step.model, step.optimiser, 0), options.steps)
    step.check_scale()
    if step.model is not language_model:
        language_model.load_state_dict(gathered(step.model.state_dict()))
    mean = mean_values(late)["loss"].item()
    if not math.isfinite(mean):
        raise TrainingDiverged(f"the loss of the adaptation is {mean}; lower task.adaptation.learning_rate")
    return Adapted(mean, policy)


def _mean_of_late(step: Stepper, batches: Iterator[Any], steps: int) -> dict[str, Tensor]:
    """Take all steps; the mean over the last tenth.

    A running total: a number kept of each step would lie in memory that the step's large matrices have left, and the
    next step's would no longer fit there.
    """
    totals: dict[str, Tensor] = {}
    number = max(steps // 10, 1)
    for done, batch in enumerate(batches):
        values = step(batch)
        if done >= steps - number:
            accumulate(totals, values)
    return {name: total / number for name, total in totals.items()}


@dataclass(frozen=True)
class _Batches:
    """The batches of an adaptation, all one epoch; see policy.Batches."""

    special: SpecialIds
    tokens_N: Tensor
    options: AdaptationOptions
    seed: int
    vocabulary: int

    def __call__(self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        options, device = self.options, next(model.parameters()).device
        for step in range(options.steps):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "masks", step))
            ids_BL = self._texts(step)
            noise = torch.rand(*ids_BL.shape, 3, generator=generator)
            masked = mask_words(ids_BL, noise, options.masked, self.special, self.vocabulary)
            set_learning_rate(optimiser, step / options.steps, WARMUP)
            yield tuple(sent(part, device) for part in (masked.ids_BL, *hidden_places(masked.labels_BL)))

    def _texts(self, step: int) -> Tensor:
        size, span = self.options.batch_size, self.options.length - 2
        number = len(self.tokens_N)
        per_pass = (number - 1) // (span * size)
        starts = window_starts(number, span, size, derive_seed(self.seed, "windows"), step, per_pass)
        ids = F.pad(self.tokens_N[starts[:, None] + torch.arange(span)], (1, 0), value=self.special.cls)
        return F.pad(ids, (0, 1), value=self.special.sep)


def masked_loss(language_model: Any, ids_BL: Tensor, places_BM: Tensor, labels_BM: Tensor) -> Tensor:
    """Mean cross-entropy over the hidden words; where the model's kind is known, only those go through its head.

    Places are numbers, no mask: how many a mask chooses the host would have to ask of the device.
    """
    head = words_head(language_model)
    found = language_model(ids_BL).logits if head is None else language_model.base_model(ids_BL)[0]
    chosen = at_places(found, places_BM)
    return vocabulary_loss(chosen if head is None else head(chosen), labels_BM, "mean")


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return masked_loss(model, *batch)
