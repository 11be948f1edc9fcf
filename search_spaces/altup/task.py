"""Language modelling on real text: next tokens scored in bits per byte, or T5's span corruption in span accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.altup.model import EncoderDecoder, LanguageModel
from naslab.search_spaces.altup.space import AltUp
from naslab.search_spaces.common.controls import untrained
from naslab.search_spaces.common.objectives.span_batches import SpanBatches
from naslab.search_spaces.common.scores import text_baselines
from naslab.search_spaces.common.tasks import StepBudget, StepTask
from naslab.search_spaces.common.training import adamw, train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.data.placing import sent_batch
from naslab.search_spaces.data.text import IGNORED, Batch, CausalBatches, TextOptions, load_text
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.task import Control, Rung, Split

BETAS = (0.9, 0.95)
FLOOR = 0.1
"""Share of the learning rate at which the cosine ends."""
MIXING = 10
"""A matrix with a side up to this many mixes streams; it starts at the identity or at zero and does not decay."""
RAW_BITS = 8.0
"""Bits of a byte that is stored as it is: what a model's bits per byte are saved from."""
Objective = Literal["causal", "span_corruption"]


class LanguageModellingOptions(StepBudget):
    """Text, objective, budget and recipe."""

    data: TextOptions = TextOptions()
    objective: Objective | None = None
    """None: causal for a decoder, span corruption for an encoder with a decoder."""
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(3e-3, gt=0, le=10)
    weight_decay: float = Field(0.1, ge=0, le=100)
    """Of matrices; not of norms, embeddings and coefficients."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises, before it falls along a cosine to a tenth."""
    clip_norm: float = Field(1.0, gt=0)
    noise_density: float = Field(0.15, gt=0, lt=1)
    mean_span: float = Field(3.0, ge=1)
    rung_windows: int = Field(512, gt=0)
    """How many windows a rung's score may use; the full evaluation uses all."""


class LanguageModelling(StepTask):
    """Trains a language model by AdamW with warm-up and cosine.

    Causal: `saved_bits_per_byte` = 8 - `bits_per_byte` ranks; it is positive, so that a gain per hour has a meaning.
    Span corruption: `span_accuracy`, percent of the hidden tokens that are predicted right, given those before them.
    """

    percentages = frozenset({"span_accuracy"})
    Options = LanguageModellingOptions
    METRICS: ClassVar[Mapping[Objective, str]] = {
        "causal": "saved_bits_per_byte",
        "span_corruption": "span_accuracy",
    }
    space: AltUp
    options: LanguageModellingOptions

    def __init__(self, space: AltUp, options: LanguageModellingOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        form = space.options.form
        self.objective: Objective = options.objective or ("causal" if form == "decoder" else "span_corruption")
        if form == "encoder_decoder" and self.objective == "causal":
            raise InputError("task.objective: causal needs space.options.form = decoder")
        for name in ("noise_density", "mean_span"):
            if self.objective == "causal" and name in options.model_fields_set:
                raise InputError(f"task.{name}: applies only with objective = span_corruption")
        self.metric = self.METRICS[self.objective]
        size, length = options.batch_size, space.options.context
        spans: SpanBatches | None = None
        if self.objective == "span_corruption":
            spans = SpanBatches(size, length, options.noise_density, options.mean_span, prefix=form == "decoder")
        with data_of("task.data"):
            self.data = load_text(options.data, space.options.vocabulary, spans.shape.spans if spans else 0)
        self.batching: CausalBatches | SpanBatches = spans or CausalBatches(size, length)
        self.token_bytes = self.data.token_bytes.to(device)
        self.batches_per_pass = self.batching.per_pass(self.data.train.tokens)
        if not self.batches_per_pass:
            raise InputError(
                f"task.data: the training part has {len(self.data.train.tokens)} tokens; a batch of {size} windows of "
                f"{length} needs {self.batching.least_tokens()}"
            )

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Train for the budget; see Task.train. Facts of a rung: mean `loss` in nats, `steps`, `tokens` seen."""
        model.to(self.device)
        options = self.options
        optimiser = adamw(model.named_parameters(), options.learning_rate, options.weight_decay, BETAS, multiplies)
        batches = partial(self._steps, seed=seed)
        rungs = train_in_rungs(
            model, optimiser, batches, _loss, options, seed, checkpoint, options.clip_norm, Wanted.by(self)
        )
        for rung in rungs:
            steps = rung.epoch * self.steps_per_epoch
            yield replace(rung, facts={**rung.facts, "steps": steps, "tokens": steps * self.batching.tokens})

    def _steps(self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int) -> Iterator[Batch]:
        for step in self.scheduled_steps(optimiser, epoch, self.options.warmup, FLOOR):
            yield sent_batch(
                self.batching.batch(self.data.train.tokens, seed, step, self.batches_per_pass), self.device
            )

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Scores of all tokens of a part, each predicted once; of the first `rung_windows` windows if not `full`.

        Causal: `saved_bits_per_byte`, `bits_per_byte`, `token_accuracy` (percent), `perplexity` a token.
        Span corruption: `span_accuracy` (percent of hidden tokens), `span_loss` (nats a target token).
        """
        model.to(self.device).eval()
        part = self.data.of(split)
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for batch in self.batching.evaluation(part.tokens, None if full else self.options.rung_windows):
            sums += self._sums(cast(Any, model), batch)
        nats, right, number, weight = sums.tolist()
        if self.objective == "causal":
            return {
                **text_baselines.bits(nats / math.log(2), weight, RAW_BITS),
                "token_accuracy": 100 * right / number,
                "perplexity": math.exp(min(nats / number, 700.0)),
            }
        return {"span_accuracy": 100 * right / weight, "span_loss": nats / number}

    def _sums(self, model: LanguageModel | EncoderDecoder, batch: Batch) -> Tensor:
        """Nats, right predictions, targets, and bytes (causal) or hidden tokens (spans) of a batch."""
        there = sent_batch(batch, self.device)
        targets = there.pop("targets")
        logits_BLV = model.logits(**there).float()
        scored, of_targets = targets != IGNORED, self.token_bytes[targets.clamp(min=0)]
        nats = nn.functional.cross_entropy(
            logits_BLV.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ).double()
        text = scored & (of_targets > 0)
        right = ((logits_BLV.argmax(-1) == targets) & text).sum()
        weight = of_targets * scored if self.objective == "causal" else text
        return torch.stack([nats, right.double(), scored.sum().double(), weight.sum().double()])

    def controls(self) -> tuple[Control, ...]:
        """What text gives away without a network, and the reference as initialised."""
        if self.objective == "span_corruption":
            return (
                Control("most_frequent", "always the most frequent token", self._most_frequent, seeded=False),
                untrained(self),
            )
        return (
            Control("unigram", "each token by its frequency", partial(self._ngram, 1), seeded=False),
            Control(
                "trigram", "each token after the two before it, Witten-Bell", partial(self._ngram, 3), seeded=False
            ),
            Control("lzma", "LZMA after the training part", self._lzma, seeded=False),
            untrained(self),
        )

    def _ngram(self, order: int, seed: int, split: Split) -> dict[str, float]:
        part = self.data.of(split)
        total = text_baselines.ngram_bits(self.data.train.tokens, part.tokens, self.space.options.vocabulary, order)
        return text_baselines.bits(total, part.num_bytes, RAW_BITS)

    def _lzma(self, seed: int, split: Split) -> dict[str, float]:
        part = self.data.of(split)
        return text_baselines.bits(text_baselines.lzma_bits(self.data.train.text, part.text), part.num_bytes, RAW_BITS)

    def _most_frequent(self, seed: int, split: Split) -> dict[str, float]:
        frequent = torch.bincount(self.data.train.tokens).argmax()
        right = hidden = 0
        for batch in self.batching.evaluation(self.data.of(split).tokens, None):
            targets = batch["targets"]
            text = (targets != IGNORED) & (self.data.token_bytes[targets.clamp(min=0)] > 0)
            right += int(((targets == frequent) & text).sum())
            hidden += int(text.sum())
        return {"span_accuracy": 100 * right / hidden}

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The text, by its hash, its split and what is asked of it; see Task.benchmark.

        Bits per byte do not depend on the tokenizer; the accuracy of spans of tokens does.
        """
        same: dict[str, Any] = {
            "metric": self.metric,
            "objective": self.objective,
            "text_sha256": self.data.sha256,
            **self.options.data.model_dump(mode="json", include={"corpus", "validation", "test"}),
        }
        if self.objective == "span_corruption":
            spans = self.options.model_dump(mode="json", include={"noise_density", "mean_span"})
            same |= {"vocabulary": self.space.options.vocabulary, "context": self.space.options.context, **spans}
        return same

    def example_input(self, batch_size: int) -> Inputs:
        """Windows of the validation part."""
        whole = next(self.batching.evaluation(self.data.validation.tokens, 1))
        return {name: tensor[:1].expand(batch_size, -1).contiguous().to(self.device) for name, tensor in whole.items()}


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(**batch)  # type: ignore[no-any-return]


def multiplies(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter multiplies tokens and so decays: no norm, no embedding, nothing that mixes streams."""
    return parameter.ndim >= 2 and min(parameter.shape[-2:]) > MIXING and not name.startswith("embedding.")
