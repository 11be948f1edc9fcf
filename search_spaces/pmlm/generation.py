"""Fine-tuned as a sequence-to-sequence model: the source is read from both sides, the target written left to right.

As in s2s-ft, the authors' code: behind the source stand the target and a pseudo mask for each of its tokens, each token
a step by itself. Names: B pairs, L source tokens, T target tokens.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from naslab.efficiency.surroundings import seeded
from naslab.search_spaces.common.objectives.fates import Fates, corrupted, fates_beside
from naslab.search_spaces.common.objectives.masked_blocks import Slots
from naslab.search_spaces.common.scores.rouge import rouge_l
from naslab.search_spaces.common.training.tuning import TuningOptions, tune
from naslab.search_spaces.data.text import IGNORED, Pairs, ParallelOptions, SpecialIds, TextTokenizer, load_parallel
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.pmlm.model import PseudoMaskedLM
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.splits import Splits
from naslab.search_spaces.task import Split

SCORED = 128
"""Pairs of a batch that is written."""
TARGET_TYPE = 1
"""Token type of a target; the source's is 0 (s2s-ft)."""


class GenerationOptions(TuningOptions):
    """Which pairs, and the recipe; noise and smoothing are those of s2s-ft."""

    seed: int = Field(0, ge=0)
    """Decides the order of the pairs, noise, and dropout."""
    data: ParallelOptions = ParallelOptions()
    source_tokens: int = Field(96, ge=4, le=2**14)
    target_tokens: int = Field(24, ge=2, le=2**14)
    """Lengths with special tokens; longer texts are cut."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    random_share: float = Field(0.1, ge=0, le=1)
    kept_share: float = Field(0.1, ge=0, le=1)
    """Of the pseudo masks, those that are any token or their own; the rest is [MASK]."""
    target_noise: float = Field(0.5, ge=0, le=1)
    """How likely a token of the target is replaced, where later ones see it, by what stands as its pseudo mask."""
    scored: int = Field(200, ge=1)
    """At most so many pairs are written and scored, at a rung a quarter of them."""


class Encoded(NamedTuple):
    """Sources (N, L) and targets (N, T) as token numbers, padded; targets end with [SEP]."""

    sources: Tensor
    targets: Tensor


class Generation:
    """Pairs of texts, and what a pre-trained model makes of them."""

    metric = "rouge_l"
    trivial = "the beginning of the source"
    """What the baseline is."""

    def __init__(self, options: GenerationOptions, tokenizer: TextTokenizer, device: torch.device) -> None:
        self.fates = fates_beside(options.random_share, options.kept_share, "task.generation")
        self.options, self.device, self.special = options, device, tokenizer.special
        with data_of("task.generation.data"):
            self.data = load_parallel(options.data)
        self.sha256, self.tokenizer = self.data.sha256, tokenizer
        parts = (self.data.train, self.data.validation, self.data.test)
        self.pairs = Splits(*(self._encoded(part) for part in parts))

    def scores(self, model: PseudoMaskedLM, split: Split, full: bool) -> dict[str, float]:
        """`rouge_l`, percent, of what a fine-tuned copy writes, word piece by word piece."""
        options = self.options
        writer = copy.deepcopy(model)

        def loss(chosen: Tensor, generator: torch.Generator) -> Tensor:
            pairs = Encoded(*(part[chosen] for part in self.pairs.train))
            noise = torch.rand(*pairs.targets.shape, 3, generator=generator).to(self.device)
            return generation_loss(writer, pairs, noise, self.fates, options)

        with seeded(derive_seed(options.seed, "fine-tuning"), self.device):
            tune(writer, loss, len(self.pairs.train.sources), options, options.seed, self.device)
        number = options.scored if full else -(-options.scored // 4)
        sources = self.pairs.of(split).sources[:number]
        parts = [write(writer, part, options.target_tokens - 1) for part in sources.split(SCORED)]
        return self._rouge([row for part in parts for row in self._words(part)], split)

    def baseline(self, split: Split) -> dict[str, float]:
        """The source's own beginning, as long as a target of training is on average."""
        special, pairs = self.special, self.pairs
        mean = (pairs.train.targets != special.pad).sum(1).double().mean()
        written = self._words(pairs.of(split).sources[: self.options.scored, 1 : round(float(mean))])
        return self._rouge(written, split)

    def _rouge(self, written: list[list[int]], split: Split) -> dict[str, float]:
        targets = self.data.of(split).targets[: len(written)]
        wanted = [code.ids for code in self.tokenizer.codes(targets)]
        found = [rouge_l(own, list(theirs)) for own, theirs in zip(written, wanted, strict=True)]
        return {self.metric: 100 * sum(found) / len(found)}

    def _words(self, rows: Tensor) -> list[list[int]]:
        """Each row up to its first [SEP] or padding."""
        found = []
        for row in rows.tolist():
            ends = (i for i, number in enumerate(row) if number in (self.special.sep, self.special.pad))
            found.append(row[: next(ends, len(row))])
        return found

    def _encoded(self, part: Pairs) -> Encoded:
        where, options = "task.generation.data", self.options
        sources = self.tokenizer.of_length(options.source_tokens).worded(part.sources, where)
        targets = self.tokenizer.of_length(options.target_tokens + 1).worded(part.targets, where)[:, 1:]
        return Encoded(sources.to(self.device), targets.to(self.device))


def target_slots(sources_BL: Tensor, targets_BT: Tensor, special: SpecialIds) -> Slots:
    """A target behind its source: places go on where the source ends, and each token is a step by itself."""
    steps_BT = torch.arange(1, targets_BT.shape[1] + 1, device=targets_BT.device).expand_as(targets_BT)
    places_BT = (sources_BL != special.pad).sum(1, keepdim=True) + steps_BT - 1
    return Slots(places_BT, targets_BT, steps_BT.masked_fill(targets_BT == special.pad, 0))


def generation_loss(
    model: PseudoMaskedLM, pairs: Encoded, noise_BT3: Tensor, fates: Fates, options: GenerationOptions
) -> Tensor:
    """Mean cross-entropy over the tokens of the targets, each at its pseudo mask."""
    special, targets_BT = model.plan.special, pairs.targets
    slots = target_slots(pairs.sources, targets_BT, special)
    fate_BT, word_BT, shown_BT = noise_BT3.unbind(-1)
    every_BT = torch.ones_like(targets_BT, dtype=torch.bool)
    pseudo_BT = corrupted(targets_BT, every_BT, fate_BT, word_BT, fates, special, model.lm.config.vocab_size)
    seen_BT = torch.where(shown_BT < options.target_noise, pseudo_BT, targets_BT)
    _, states = model.states(pairs.sources, slots._replace(originals_BM=seen_BT), pseudo_BT, TARGET_TYPE)
    assert states is not None
    labels = targets_BT.masked_fill(targets_BT == special.pad, IGNORED)
    smoothing = options.label_smoothing
    return F.cross_entropy(model.logits(states).flatten(0, 1).float(), labels.flatten(), label_smoothing=smoothing)


@torch.no_grad()
def write(model: PseudoMaskedLM, sources_BL: Tensor, longest: int) -> Tensor:
    """What the model writes, the most likely token at each step, (B, T) with T up to `longest`; padded after [SEP]."""
    special = model.plan.special
    written_BT = sources_BL.new_zeros(len(sources_BL), 0)
    done_B = torch.zeros(len(sources_BL), dtype=torch.bool, device=sources_BL.device)
    for _ in range(longest):
        # The token itself is not seen by the mask of its own step: any but padding will do.
        open_BT = torch.cat([written_BT, written_BT.new_full((len(written_BT), 1), special.mask)], 1)
        _, states = model.states(sources_BL, target_slots(sources_BL, open_BT, special), slot_type=TARGET_TYPE)
        assert states is not None
        next_B = model.logits(states[:, -1]).argmax(-1).masked_fill(done_B, special.pad)
        written_BT = torch.cat([written_BT, next_B[:, None]], 1)
        done_B |= (next_B == special.sep) | (next_B == special.pad)
        if done_B.all():
            break
    return written_BT
