"""Few-shot classification: K examples of each class to learn from, as many to choose by, a large test part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common.controls import trained
from naslab.search_spaces.common.modules.language_models import check_padding
from naslab.search_spaces.common.scores.accuracy import accuracy, macro_f1, most_frequent
from naslab.search_spaces.common.scores.sentence_vectors import Embed, cosines, embedder, probe_accuracy
from naslab.search_spaces.common.tasks import StepBudget, StepTask
from naslab.search_spaces.common.training import adamw, train_in_rungs
from naslab.search_spaces.common.training.adaptation import Adaptation, AdaptationOptions
from naslab.search_spaces.common.training.best import Best
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.data.placing import sent_batch
from naslab.search_spaces.data.text import LabelledText, PoolOptions, Sentences, load_pool, shuffled_rows
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer, named_prompt_tokenizer, trained_tokenizer
from naslab.search_spaces.data.text.templates import PLAIN, Limits, Template, parse_template
from naslab.search_spaces.lmbff import search
from naslab.search_spaces.lmbff.chosen import SEARCHED, Chosen
from naslab.search_spaces.lmbff.generate import infiller_tokenizer
from naslab.search_spaces.lmbff.model import FewShotModel, Kept
from naslab.search_spaces.lmbff.prompts import Batch, Prompter
from naslab.search_spaces.lmbff.space import LMBFF
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.task import Control, Rung, Split

PUBLISHED_SEEDS = (13, 21, 42, 87, 100)
"""Of the few-shot splits; a study's seeds decide its own, and before training a model stands for the first of these."""


class FewShotOptions(StepBudget):
    """Data, budget and recipe; the defaults are the authors'."""

    data: PoolOptions = PoolOptions()
    """Of each class K are for training and K for validation, drawn by a trial's seed."""
    adaptation: AdaptationOptions | None = None
    """Masked words to learn before every trial, charged to it; None: the encoder as it is."""
    epochs: int = Field(10, gt=0)
    steps_per_epoch: int = Field(100, gt=0)
    """Optimiser steps between two looks at the validation part."""
    batch_size: int = Field(8, ge=1, le=4096)
    weight_decay: float = Field(0.0, ge=0, le=100)
    clip_norm: float = Field(1.0, gt=0)
    keep_best: bool = True
    """End with the weights of the best validation accuracy, the first of equals."""
    demonstration_sets: int = Field(16, ge=1, le=1000)
    """Sets of demonstrations of each scored sentence, whose logits are averaged; the authors have 4 for large tests."""
    embedder: str = "words"
    """What is alike, for the filter and the baseline: `words` (weighted counts), `minilm`, or a sentence encoder."""


class FewShot(StepTask):
    """Tunes a language model on K examples of each class; `accuracy`, percent of the test part, ranks."""

    percentages = frozenset({"accuracy", "macro_f1"})
    Options = FewShotOptions
    metric = "accuracy"
    space: LMBFF
    options: FewShotOptions

    def __init__(self, space: LMBFF, options: FewShotOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        with data_of("task.data"):
            self.pool = load_pool(options.data)
        self._check_fit()
        self.pool.few_shot(space.options.shots, PUBLISHED_SEEDS[0], "space.options.shots")
        self.tokenizer = self._tokenizer()
        self._check_texts()
        adaptation = options.adaptation
        self.adaptation = None if adaptation is None else Adaptation(adaptation, self.tokenizer, space.config)
        sets = space.options.label_words
        self.manual = {"/".join(words): self.tokenizer.words(words, "space.options.label_words") for words in sets}
        self._embedding = trained("frozen_embedding", "logistic regression on frozen sentence vectors of K examples",
                                  self._reference_split, self._probe)  # fmt: skip
        self._adapted = lru_cache(maxsize=1)(self._start)
        self._check_loads()

    def _check_loads(self) -> None:
        """What the options name is there, and whole, before any time is spent."""
        options = self.space.options
        if options.encoder is not None:
            check_padding(self.space.build(self.space.reference).language_model, options.length)
        if options.infiller is not None:
            infiller_tokenizer(options.infiller)
        if self.options.embedder != "words":
            _ = self.embed

    def _check_fit(self) -> None:
        classes, pairs = self.pool.classes, bool(self.pool.pool.seconds)
        if self.space.classes != len(classes):
            known = f"{len(classes)} classes ({', '.join(classes)})"
            raise InputError(f"space.options.label_words: {self.space.classes} words for {known}")
        for template in self.space.templates:
            if pairs != (template.sentences == 2):
                wanted = (
                    "needs *sent_1*, for the data has pairs" if pairs else "has *sent_1*, but the data has no pairs"
                )
                raise InputError(f"space.options.templates: {template.source!r} {wanted}")

    def _check_texts(self) -> None:
        for name, part in (("to learn from", self.pool.pool), ("for the test", self.pool.test)):
            for texts in (part.texts, part.seconds):
                self.tokenizer.read_worded(texts, f"task.data, {name}")
        for template in self.space.templates:
            self._check_room(template, demonstrations=False)
        # Of the reference, and of the control that learns in context.
        self._check_room(self.space.templates[0], demonstrations=True)

    def _check_room(self, template: Template, demonstrations: bool) -> None:
        shown, special = self.pool.pool.pair(0), self.tokenizer.special
        examples = [(shown, special.unk)] * (self.space.classes if demonstrations else 0)
        template.fill(self.tokenizer.encode, special, shown, self._limits, examples)

    def check(self, configuration: Configuration) -> None:
        """Refuse more shots than there are examples of a class, and demonstrations that do not fit."""
        chosen = configuration.into(Chosen)
        self.split(chosen.shots, PUBLISHED_SEEDS[0])
        if chosen.method == "prompt" and chosen.template != SEARCHED:
            self._check_room(parse_template(chosen.template), chosen.demonstrations != "none")

    def _tokenizer(self) -> PromptTokenizer:
        options = self.space.options
        if options.encoder is not None:
            return named_prompt_tokenizer(options.encoder, self.space.config)
        words = [word for words in options.label_words for word in words]
        texts = [*self.pool.pool.joined, *(piece.text for t in self.space.templates for piece in t.pieces)]
        return trained_tokenizer(texts, options.vocabulary, words)

    @cached_property
    def embed(self) -> Embed:
        """Sentences to vectors of length 1."""
        known, tokenizer = self.pool.pool.joined, self.tokenizer
        return embedder(self.options.embedder, tokenizer.encode, len(tokenizer), known, self.device)

    def split(self, shots: int, seed: int) -> LabelledText:
        """The few-shot parts of a seed.

        Raises:
            InputError: a class has fewer than twice as many examples.
        """
        return self.pool.few_shot(shots, seed, "shots")

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Adapt, search what is to be searched, and tune; see Task.train. `seed` decides the split, too.

        Facts of a rung: `loss`, `steps`, and the tokens of the adaptation.
        """
        few_shot, options = cast(FewShotModel, model.to(self.device)), self.options
        facts = {"adaptation_tokens": options.adaptation.tokens} if options.adaptation else {}
        if checkpoint is None or not (checkpoint / "checkpoint.json").exists():
            self._prepare(few_shot, seed)
        rate = few_shot.chosen.learning_rate
        optimiser = adamw(few_shot.named_parameters(), rate, options.weight_decay)
        best = Best(checkpoint) if options.keep_best else None
        batches = partial(self._steps, seed=seed, tuned=few_shot, best=best)
        rungs = train_in_rungs(
            few_shot, optimiser, batches, _loss, options, seed, checkpoint, options.clip_norm, Wanted.by(self)
        )
        for rung in rungs:
            if best is not None and rung.epoch == options.epochs:
                best.restore(few_shot)
            steps = {"steps": rung.epoch * self.steps_per_epoch}
            yield replace(rung, facts={**rung.facts, **steps, **facts}, earlier=_earlier(few_shot.kept))
        if best is not None:
            best.restore(few_shot)

    def _prepare(self, model: FewShotModel, seed: int) -> None:
        """Adaptation and search, and what they found kept in the model."""
        policy = self._adapt(model, seed)
        template, words = self._setting(model, model.chosen, self.split(model.chosen.shots, seed))
        model.kept = Kept(seed, words, template.source, policy)

    def _adapt(self, model: FewShotModel, seed: int) -> dict[str, Any] | None:
        """The policy that it followed."""
        if self.adaptation is None:
            return None
        return self.adaptation(model.language_model, seed, Wanted.by(self)).policy.to_dict()

    def _setting(self, model: FewShotModel, chosen: Chosen, data: LabelledText) -> tuple[Template, tuple[int, ...]]:
        """Template and words: as training kept them, or as chosen, or searched with the model as it is."""
        if chosen.method == "head":
            return PLAIN[len(data.train.pair(0)) - 1], (0,) * self.space.classes
        template = parse_template(model.kept.template or self._template(chosen, data), generated=True)
        if chosen.label_words != SEARCHED:
            return template, self.manual[chosen.label_words]
        if model.kept.words is not None:
            return template, model.kept.words
        prompter = self._prompter(data, chosen, template, next(iter(self.manual.values())))
        found = search.words(self.space.options, model, prompter, self.device)
        return template, search.ranked(found, chosen.words_rank, "words_rank")

    def _template(self, chosen: Chosen, data: LabelledText) -> str:
        if chosen.template != SEARCHED:
            return chosen.template
        found = search.templates(self.space.options, data, self.device)
        return search.ranked(found, chosen.template_rank, "template_rank").source

    def prompter(self, model: FewShotModel, chosen: Chosen | None = None) -> Prompter:
        """Rows for a model: of the split that it was trained on, or of the first published one."""
        chosen = chosen or model.chosen
        seed = PUBLISHED_SEEDS[0] if model.kept.split is None else model.kept.split
        data = self.split(chosen.shots, seed)
        return self._prompter(data, chosen, *self._setting(model, chosen, data))

    def _prompter(self, data: LabelledText, chosen: Chosen, template: Template, words: tuple[int, ...]) -> Prompter:
        return Prompter(data, self.tokenizer, self._limits, chosen, template, words, self._similarity)

    @property
    def _limits(self) -> Limits:
        options = self.space.options
        return Limits(options.length, options.query_tokens, options.demonstration_tokens)

    def _similarity(self, part: Sentences, other: Sentences) -> NDArray[np.float64]:
        return cosines(self.embed(part.joined), self.embed(other.joined))

    def _steps(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int, tuned: FewShotModel,
        best: Best | None,
    ) -> Iterator[Batch]:  # fmt: skip
        """The batches of an epoch; after its last step the model is scored on the validation part."""
        prompter = self.prompter(tuned)
        train, allowed = prompter.data.train, prompter.allowed(prompter.data.train, training=True)
        for step in self.scheduled_steps(optimiser, epoch, warmup=0.0, fall="line"):
            chosen = shuffled_rows(len(train), self.options.batch_size, seed, step)
            rng = np.random.RandomState(derive_seed(seed, "demonstrations", step) % 2**32)
            batch = prompter.batch(prompter.rows(train, chosen, allowed, rng))
            yield sent_batch({**batch, "labels": train.labels[chosen]}, self.device)
        if best is not None and model is tuned:  # not a copy, whose steps are only timed
            best.see(tuned, self.evaluate(tuned, "validation", full=False)[self.metric])

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """`accuracy` and `macro_f1` in percent, `loss` in nats, of logits averaged over sets of demonstrations."""
        few_shot = cast(FewShotModel, model.to(self.device).eval())
        return self._scores(few_shot, self.prompter(few_shot), split)

    def _scores(self, model: FewShotModel, prompter: Prompter, split: Split) -> dict[str, float]:
        part = prompter.data.of(split)
        logits, labels = self.logits(model, prompter, part), part.labels
        return {
            "accuracy": 100 * accuracy(logits, labels),
            "macro_f1": 100 * macro_f1(logits, labels),
            "loss": F.cross_entropy(logits, labels).item(),
        }

    @torch.no_grad()
    def logits(self, model: FewShotModel, prompter: Prompter, part: Sentences) -> Tensor:
        """Logits (N, C) on the CPU, the mean over the sets of demonstrations."""
        allowed = prompter.allowed(part, training=False)
        sets = 1 if prompter.chosen.demonstrations == "none" else self.options.demonstration_sets
        rng = np.random.RandomState((model.kept.split or 0) % 2**32)
        found = torch.zeros(len(part), self.space.classes)
        for _ in range(sets):
            rows = prompter.rows(part, range(len(part)), allowed, rng)
            found += prompter.answers(rows, lambda batch: model(**sent_batch(batch, self.device))) / sets
        return found

    def controls(self) -> tuple[Control, ...]:
        """What needs no tuning, and what needs no language model."""
        return (
            Control("majority", "always the most frequent class of the pool", self._majority, seeded=False),
            Control("zero_shot", "the prompt before any tuning", partial(self._untuned, "none")),
            Control("in_context", "the prompt with demonstrations before any tuning", partial(self._untuned, "random")),
            self._embedding,
        )

    def _majority(self, seed: int, split: Split) -> dict[str, float]:
        labels = self._reference_split(PUBLISHED_SEEDS[0]).of(split).labels
        return {"accuracy": 100 * most_frequent(self.pool.pool.labels, labels)}

    def _start(self, seed: int) -> FewShotModel:
        """The reference, adapted but not tuned."""
        seed_everything(seed)
        model = self.space.build(self.space.reference).to(self.device)
        self._adapt(model, seed)
        model.kept = Kept(seed)
        return model.eval()

    def _untuned(self, kind: Literal["none", "random"], seed: int, split: Split) -> dict[str, float]:
        model = self._adapted(seed)
        return self._scores(model, self.prompter(model, replace(model.chosen, demonstrations=kind)), split)

    def _reference_split(self, seed: int) -> LabelledText:
        return self.split(self.space.reference.into(Chosen).shots, seed)

    def _probe(self, data: LabelledText, split: Split) -> dict[str, float]:
        bank, scored = ((part.joined, part.labels) for part in (data.train, data.of(split)))
        return {"accuracy": 100 * probe_accuracy(self.embed, bank, scored, self.space.classes)}

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The sentences and which of them are for the test; K and the split are a configuration's and a seed's."""
        return {"metric": self.metric, "sha256": self.pool.sha256, "test": self.options.data.test}

    def example_input(self, batch_size: int) -> Inputs:
        """Prompts of validation sentences, padded to the full length, with the first template and words."""
        chosen = replace(self.space.reference.into(Chosen), demonstrations="none")
        data = self.split(chosen.shots, PUBLISHED_SEEDS[0])
        prompter = self._prompter(data, chosen, self.space.templates[0], next(iter(self.manual.values())))
        rows = [prompter.row(data.validation, index % len(data.validation)) for index in range(batch_size)]
        return sent_batch(prompter.batch(rows, self.space.options.length), self.device)


def _earlier(kept: Kept) -> Mapping[str, Mapping[str, Any]]:
    return {} if kept.adapted_by is None else {"adaptation": kept.adapted_by}


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return F.cross_entropy(model(**inputs).float(), batch["labels"])
