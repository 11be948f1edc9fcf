"""Writing targets for sources, such as words for words without vowels; scored by what the model writes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common.controls import trained_as, untrained
from naslab.search_spaces.common.scores.translation import translation_scores
from naslab.search_spaces.common.tasks import StepBudget, StepTask
from naslab.search_spaces.common.training import adamw, train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.data.placing import sent_batch
from naslab.search_spaces.data.text import ParallelOptions, load_parallel
from naslab.search_spaces.data.text.pair_tokenizers import BytePairs, NamedPairs, PairTokenizer
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.dysi.model import SequenceModel
from naslab.search_spaces.dysi.networks import check_writes
from naslab.search_spaces.dysi.pairs import TokenPairs, token_pairs
from naslab.search_spaces.dysi.scoring import forced_scores, prefix_chrf, written
from naslab.search_spaces.dysi.space import DySI
from naslab.search_spaces.options import Mechanical
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.task import Control, Rung, Split

BETAS = (0.9, 0.98)
"""Of the Transformer's recipe (Vaswani et al. 2017)."""


class TranslationOptions(StepBudget):
    """Pairs, budget, recipe and scores."""

    data: ParallelOptions = ParallelOptions(name="vowels")
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0, le=10)
    weight_decay: float = Field(0.01, ge=0, le=100)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises, before it falls along a cosine."""
    clip_norm: float = Field(1.0, gt=0)
    metric: Literal["chrf", "bleu"] = "chrf"
    beams: int = Field(1, ge=1, le=100)
    """1: greedy."""
    prefix_tokens: int = Field(8, ge=1)
    """Tokens of a target that a prefix test begins with; targets that do not go on behind them are left out."""
    corruption: float = Field(0.25, gt=0, le=1)
    """Share of a corrupted prefix's tokens that are replaced."""
    rung_pairs: int = Field(64, gt=0)
    """How many pairs a rung's score may use; the full evaluation uses all."""
    evaluation_batch: Annotated[int, Mechanical()] = Field(64, gt=0)


class Translation(StepTask):
    """Trains a sequence model by AdamW with warm-up and cosine; chrF or BLEU of free-running generation ranks."""

    percentages = frozenset({"chrf", "bleu"})
    Options = TranslationOptions
    space: DySI
    options: TranslationOptions

    def __init__(self, space: DySI, options: TranslationOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        self.metric = options.metric
        if options.prefix_tokens >= space.options.target_tokens:
            raise InputError(
                f"task.prefix_tokens: {options.prefix_tokens} is not less than space.options.target_tokens, "
                f"{space.options.target_tokens}; no target goes on behind such a prefix"
            )
        with data_of("task.data"):
            self.data = load_parallel(options.data)
        self.tokenizer = self._tokenizer()
        self.pairs: Mapping[str, TokenPairs] = {
            name: token_pairs(self.data.of(cast(Split, name)), self.tokenizer, space.options)
            for name in ("train", "validation", "test")
        }
        self.batches_per_pass = len(self.pairs["train"]) // options.batch_size
        if not self.batches_per_pass:
            raise InputError(
                f"task.batch_size: {options.batch_size} is more than the {len(self.pairs['train'])} training pairs"
            )
        translation_scores(["a"], ["a"])  # says at once where sacrebleu is missing
        if space.options.pretrained is not None:
            check_writes(space.build(space.reference), space.options)
        gold = "the reference's network, trained on gold prefixes alone"
        self._controls = (
            Control("source", "the source itself as its target", self._source, seeded=False),
            untrained(self),
            trained_as(self, "teacher_forcing", gold, space.published["teacher-forcing"]),
        )

    def _tokenizer(self) -> PairTokenizer:
        name = self.space.options.pretrained
        if name is None:
            return BytePairs(self.data.train, self.space.options.vocabulary)
        return NamedPairs(name, self.space.ids, self.space.vocabulary)

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """See Task.train. Facts of a rung: `loss`, its parts, the expert's `accuracy`, the share `replaced`."""
        model.to(self.device)
        options = self.options
        optimiser = adamw(model.named_parameters(), options.learning_rate, options.weight_decay, BETAS, _multiplies)
        batches = partial(self._steps, seed=seed)
        return train_in_rungs(
            model, optimiser, batches, _loss, options, seed, checkpoint, options.clip_norm, Wanted.by(self)
        )

    def _steps(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int
    ) -> Iterator[dict[str, Tensor]]:
        recipe, pairs, size = cast(SequenceModel, model).recipe, self.pairs["train"], self.options.batch_size
        whole = self.options.epochs * self.steps_per_epoch
        for step in self.scheduled_steps(optimiser, epoch, self.options.warmup):
            order = torch.Generator().manual_seed(derive_seed(seed, "order", step // self.batches_per_pass))
            at = step % self.batches_per_pass * size
            rows = torch.randperm(len(pairs), generator=order)[at : at + size].tolist()
            drawn = torch.Generator().manual_seed(derive_seed(seed, "replaced", step))
            yield sent_batch(pairs.batch(rows, drawn, recipe.share(step, whole)), self.device)

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """`chrf` and `bleu` of what the model writes for each source, `nats` and `token_accuracy` with gold prefixes.

        If not `full`, of the first `rung_pairs`. Full: also `prefix_chrf` and `corrupted_chrf`, chrF of what it writes
        behind gold and behind corrupted prefixes, and `decay`, the first less the second.
        """
        chosen, options, pairs = cast(SequenceModel, model.to(self.device).eval()), self.options, self.pairs[split]
        rows = range(len(pairs) if full else min(options.rung_pairs, len(pairs)))
        how = (self.tokenizer, options.evaluation_batch)
        texts = written(chosen, pairs, rows, *how, options.beams)
        scores = translation_scores(texts, [pairs.references[row] for row in rows])
        scores |= forced_scores(chosen, pairs, rows, options.evaluation_batch)
        if not full:
            return scores
        longer = pairs.longer_than(options.prefix_tokens)
        if longer:
            prefix = partial(prefix_chrf, chosen, pairs, longer, *how, options.prefix_tokens)
            scores |= {"prefix_chrf": prefix(0.0), "corrupted_chrf": prefix(options.corruption)}
            scores["decay"] = scores["prefix_chrf"] - scores["corrupted_chrf"]
        return scores

    def controls(self) -> tuple[Control, ...]:
        """What the source gives away, the network before its training, and teacher forcing."""
        return self._controls

    def _source(self, seed: int, split: Split) -> dict[str, float]:
        part = self.data.of(split)
        return translation_scores(part.sources, part.targets)

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The pairs, by their hash, and how what is written for them is scored; see Task.benchmark."""
        scored = {"metric", "beams", "prefix_tokens", "corruption"}
        return {
            "pairs_sha256": self.data.sha256,
            "validation_seed": self.options.data.seed,
            "target_tokens": self.space.options.target_tokens,
            **self.options.model_dump(mode="json", include=scored),
        }

    def example_input(self, batch_size: int) -> Inputs:
        """Validation pairs, a quarter of their tokens to be replaced by schedules by step."""
        pairs = self.pairs["validation"]
        rows = [row % len(pairs) for row in range(batch_size)]
        return sent_batch(pairs.batch(rows, torch.Generator().manual_seed(0), 0.25), self.device)


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return model(**batch)  # type: ignore[no-any-return]


def _multiplies(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter decays: matrices do, embeddings, positions and norms do not."""
    return parameter.ndim >= 2 and not any(word in name for word in ("shared", "embed", "wte", "wpe", "bias"))
