"""The whole-word space: what a masked language model hides at once, found by whom, how much of it, and how deep it is.

Cui, Che, Liu, Qin, Yang 2021 (*Pre-Training with Whole Word Masking for Chinese BERT*, arXiv 1906.08101), and for
English the whole-word models of Devlin et al. (2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common.counts import roundest
from naslab.search_spaces.common.modules.bert import pretrained_config
from naslab.search_spaces.common.modules.language_models import check_positions
from naslab.search_spaces.common.modules.masked_lm import BertSizes, fresh_masked_lm, load_masked_lm
from naslab.search_spaces.common.objectives.fates import FateOf, Fates
from naslab.search_spaces.common.objectives.masked_units import Budget
from naslab.search_spaces.common.objectives.units import SEGMENTED, UNITS, Unit
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.data.text import WordsBy
from naslab.search_spaces.options import Network, Options
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Value, When
from naslab.search_spaces.space import SearchSpace
from naslab.search_spaces.whole_word.model import Plan, WholeWordModel

FRESH = When("pretrained", (None,))
LAYERS = 2
LONGEST = 4
"""Words of the longest phrase, as in MacBERT."""


class WholeWordOptions(Options):
    """What a study fixes."""

    vocabulary: Annotated[int, FRESH] = Field(6000, ge=16, le=2**20)
    """Tokens at most, of a tokenizer trained on the task's text."""
    length: int = Field(64, ge=8, le=2**14)
    """Tokens of a training window, special ones included, and positions of a fresh model."""
    layers: int | None = Field(None, ge=1, le=1000)
    """Of the reference; up to twice as many may vary, or as many as a pre-trained model has. None: 2, or all of
    those."""
    width: Annotated[int, FRESH] = Field(128, ge=2, le=2**14)
    heads: Annotated[int, FRESH] = Field(2, ge=1, le=2**14)
    dropout: Annotated[float, FRESH] = Field(0.0, ge=0, lt=1)
    pretrained: Annotated[str | None, Network()] = None
    """A BERT with its head for masked words, from the hub or a folder; its training goes on with its own tokenizer."""
    segmenters: tuple[WordsBy, ...] = Field(("gold", "jieba"), min_length=1)
    """Who may say what a word is; the first is the reference's."""
    most_masked: int | None = Field(None, ge=1)
    """Tokens of a window that are masked at most; BERT has 20 of 128 and 77 of 512. None: as the rate says."""
    masked: float = Field(0.8, ge=0, le=1)
    """Share of the chosen tokens that become [MASK]."""
    randomised: float = Field(0.1, ge=0, le=1)
    """Share that become a random token; the rest stay."""
    fate_of: FateOf = "token"
    """What draws its fate by itself: each token, as published, or a whole unit."""


@dataclass(frozen=True)
class Chosen:
    """A configuration's values; what does not apply has its default."""

    masking_rate: float
    unit: Unit
    layers: int
    segmenter: WordsBy = "pieces"
    longest: int = 1


class WholeWord(SearchSpace):
    """Masked language models that hide characters, words, phrases, names or spans."""

    name = "whole_word"
    Options = WholeWordOptions
    options: WholeWordOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {},
        "english": {"segmenters": ("pieces",)},
        "small": {"vocabulary": 8000, "length": 128, "layers": 6, "width": 384, "heads": 6, "dropout": 0.1},
        "paper": {
            "vocabulary": 21128, "length": 512, "layers": 12, "width": 768, "heads": 12, "dropout": 0.1,
            "most_masked": 77,
        },
    }  # fmt: skip

    def __init__(self, options: WholeWordOptions) -> None:
        super().__init__(options)
        if options.masked + options.randomised > 1:
            raise InputError(
                f"space.options.masked: {options.masked} and randomised {options.randomised} are more than all"
            )
        if len(set(options.segmenters)) < len(options.segmenters):
            raise InputError(f"space.options.segmenters: {', '.join(options.segmenters)} has one twice")
        self.sizes = self._sizes()
        self.layers = options.layers or (LAYERS if options.pretrained is None else self.sizes.layers)
        self.deepest = 2 * self.layers if options.pretrained is None else self.sizes.layers
        if self.sizes.width % self.sizes.heads:
            raise InputError(f"space.options.width: {options.width} cannot be divided among heads = {options.heads}")
        if self.layers > self.deepest:
            raise InputError(f"space.options.layers: {options.pretrained} has {self.deepest} layers, not {self.layers}")

    def _sizes(self) -> BertSizes:
        """Of the reference, or of the whole pre-trained model."""
        options, width = self.options, self.options.width
        if options.pretrained is not None:
            config = pretrained_config(options.pretrained, "space.options.pretrained")
            check_positions(config, options.length, "space.options.length", options.pretrained)
            return BertSizes.of(config)
        layers = options.layers or LAYERS
        return BertSizes(options.vocabulary, width, layers, options.heads, 4 * width, options.length, options.dropout)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What is masked, and the depth."""
        tagged = [name for name in self.options.segmenters if name != "pieces"]
        return (
            Float("masking_rate", 0.05, 0.4, reason="published .15; above .4 too little is left to read"),
            Categorical(
                "unit",
                UNITS,
                proposed=tuple(unit for unit in UNITS if unit != "entity" or tagged),
                reason="character is BERT, word Chinese BERT-wwm, ngram MacBERT's phrases, entity ERNIE's names; span "
                "is the control: as long as words, anywhere",
            ),
            Categorical(
                "segmenter",
                self.options.segmenters,
                when=When("unit", SEGMENTED),
                reason="who says what a word is: the paper had a segmenter of its own, people are better",
            ),
            Integer("longest", 2, LONGEST, when=When("unit", ("ngram",)), reason="words of a phrase; MacBERT has 4"),
            Integer("layers", 1, self.deepest, reason="RBT3 keeps 3 of 12 layers and 93 % of the score"),
        )

    @property
    def reference(self) -> Configuration:
        """Whole words by the first segmenter, 15 %."""
        return self._published("word")

    @property
    def published(self) -> Mapping[str, Configuration]:
        """BERT's characters, the control of random spans, MacBERT's phrases, and the words of the other segmenters."""
        first, *others = self.options.segmenters
        named = {
            "character": self._published("character"),
            "span": self._published("span", segmenter=first),
            "ngram": self._published("ngram", segmenter=first, longest=LONGEST),
        }
        return named | {f"word by {name}": self._published("word", segmenter=name) for name in others}

    def _published(self, unit: Unit, **values: Value) -> Configuration:
        given: dict[str, Value] = {"masking_rate": 0.15, "unit": unit, "layers": self.layers, **values}
        if unit in SEGMENTED:
            given.setdefault("segmenter", self.options.segmenters[0])
        return self.configuration(given)

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """The roundest of the rates that mask as many tokens of a window.

        Raises:
            InputError: names by a segmenter that has no tags.
        """
        chosen, length = into(values, Chosen), self.options.length
        if chosen.unit == "entity" and chosen.segmenter == "pieces":
            raise InputError("segmenter: pieces knows no names; use gold or jieba with unit entity")
        budget = Budget(chosen.masking_rate, self.options.most_masked)
        count = budget.of(length)
        exact = min(max(count / length, 0.05), 0.4)
        values["masking_rate"] = roundest(
            chosen.masking_rate, lambda rate: replace(budget, rate=rate).of(length), exact, 1 / length
        )
        return values

    def plan(self, configuration: Configuration) -> Plan:
        """What is masked in training."""
        options, chosen = self.options, configuration.into(Chosen)
        budget = Budget(chosen.masking_rate, options.most_masked)
        fates = Fates(options.masked, options.randomised, options.fate_of)
        return Plan(chosen.unit, chosen.segmenter, chosen.longest, budget, fates)

    def build(self, configuration: Configuration) -> nn.Module:
        """A masked language model with the configuration's depth and plan."""
        layers, name = configuration.into(Chosen).layers, self.options.pretrained
        bert = fresh_masked_lm(replace(self.sizes, layers=layers)) if name is None else load_masked_lm(name, layers)
        return WholeWordModel(bert, self.plan(configuration))

    def example_input(self, batch_size: int) -> Inputs:
        """Random tokens, a window long."""
        return torch.randint(self.sizes.vocabulary, (batch_size, self.options.length))

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int:
        """Layers, and the head's two matrices on every token."""
        length, layers = self.options.length, configuration.into(Chosen).layers
        return 2 * batch_size * (layers * self.sizes.block(length) + self.sizes.head(length))
