"""The PMLM space: which masks, which order and which losses a bidirectional language model is pre-trained with.

Bao et al., *UniLMv2: Pseudo-Masked Language Models for Unified Language Model Pre-Training* (ICML 2020, arXiv
2002.12804), with the ablations of its table 6 and BERT's own masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common.counts import roundest
from naslab.search_spaces.common.modules.bert import pretrained_config
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Value, When
from naslab.search_spaces.pmlm import costs
from naslab.search_spaces.pmlm.masking import NOISE, Masking, Order
from naslab.search_spaces.pmlm.model import Bias, Objective, Plan, PseudoMaskedLM, Sizes
from naslab.search_spaces.space import SearchSpace

OBJECTIVES = ("ae", "par", "ae_par", "ar", "ae_ar")
JOINT = ("ae_par", "ae_ar")
SINGLE = ("ar", "ae_ar")
TENTHS = tuple(tenth / 10 for tenth in range(11))
OWN_TEXT = When("text_model", (None,))
FEWEST, MOST = 0.05, 0.5
"""Shares of masked tokens."""
FEWEST_POSITIONS = 512
"""What `bert_config` gives a fresh BERT at least."""
PAPER = {"vocabulary": 30522, "width": 768, "head_width": 64, "layers": 12, "context": 512}


class PMLMOptions(Options):
    """What a study fixes. Sizes are those of the reference; `layers` and `width` vary around them."""

    text_model: str | None = None
    """A pre-trained BERT by name or folder, head for masked words included, which brings the sizes."""
    vocabulary: Annotated[int, OWN_TEXT] = Field(4096, ge=64)
    context: int = Field(128, ge=8)
    """Tokens of a training text, [CLS] and [SEP] among them."""
    layers: Annotated[int, OWN_TEXT] = Field(4, ge=1)
    width: Annotated[int, OWN_TEXT] = Field(128, ge=2)
    head_width: Annotated[int, OWN_TEXT] = Field(32, ge=1)
    dropout: Annotated[float, OWN_TEXT] = Field(0.0, ge=0, lt=1)
    relative_buckets: int = Field(32, ge=4)
    relative_distance: int = Field(128, ge=2)
    """Beyond it all positions are alike."""
    budget: Literal["exact", "at_least"] = "exact"
    """Whether the last block is cut to the masking rate, or goes beyond it as published."""
    random_share: float = Field(0.1, ge=0, le=1)
    kept_share: float = Field(0.1, ge=0, le=1)
    """Of the masked tokens; a pseudo mask sees its own token where it is kept in the text. 0: never."""
    special: SpecialIds = Field(default_factory=SpecialIds)
    """Numbers of the special tokens; the defaults are those of the tokenizer that the task trains."""


@dataclass(frozen=True)
class Chosen:
    """A configuration's values; what does not apply has the value that does nothing."""

    objective: Objective
    masking_rate: float
    span_share: float
    longest_span: int
    relative_bias: bool
    par_weight: float = 1.0
    order: Order = "random"
    layers: int = 0
    width: int = 0


class PMLM(SearchSpace):
    """Bidirectional language models under conventional and pseudo masks."""

    name = "pmlm"
    Options = PMLMOptions
    options: PMLMOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {},
        "small": {"vocabulary": 16384, "context": 256, "layers": 6, "width": 384, "head_width": 64, "dropout": 0.1},
        "paper": {**PAPER, "dropout": 0.1, "budget": "at_least"},
    }

    def __init__(self, options: PMLMOptions) -> None:
        super().__init__(options)
        self._pretrained = None if options.text_model is None else pretrained_config(options.text_model)
        self._check()

    def _check(self) -> None:
        options, special = self.options, asdict(self.options.special)
        if options.width % options.head_width:
            raise InputError(f"space.width: {options.width} is not a multiple of head_width {options.head_width}")
        if options.random_share + options.kept_share > 1:
            raise InputError(
                f"space.random_share: {options.random_share:g} and kept_share {options.kept_share:g} are more than 1"
            )
        if options.relative_distance <= options.relative_buckets // 4:
            raise InputError(
                f"space.relative_distance: {options.relative_distance} must be more than a quarter of "
                f"relative_buckets {options.relative_buckets}"
            )
        numbers = set(special.values())
        if len(numbers) < len(special) or min(numbers) < 0 or max(numbers) + 1 >= self.vocabulary:
            raise InputError(
                f"space.special: {special} must differ and leave words in a vocabulary of {self.vocabulary}"
            )
        if self._pretrained is not None and options.context > self._pretrained.max_position_embeddings:
            raise InputError(
                f"space.context: {options.context} tokens are more than the "
                f"{self._pretrained.max_position_embeddings} positions of {options.text_model}"
            )

    @property
    def vocabulary(self) -> int:
        """Words that a model scores."""
        return self.options.vocabulary if self._pretrained is None else int(self._pretrained.vocab_size)

    @property
    def positions(self) -> int:
        """Tokens that a model has positions for."""
        if self._pretrained is None:
            return max(FEWEST_POSITIONS, self.options.context)
        return int(self._pretrained.max_position_embeddings)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Objective, masks and order, the bias, and the sizes of what is not pre-trained."""
        options = self.options
        return (
            Categorical("objective", OBJECTIVES, reason="the rows of the paper's table 6"),
            Float(
                "par_weight",
                0.0,
                4.0,
                when=When("objective", JOINT),
                reason="of the pseudo masks' loss beside the other; published 1",
            ),
            Float("masking_rate", FEWEST, MOST, reason="published .15; beyond half there is little left to read"),
            Categorical(
                "span_share",
                TENTHS,
                reason="how likely a proposed block is a span; published .4, 0 masks single tokens",
            ),
            Integer("longest_span", 2, 10, reason="published 6"),
            Categorical(
                "order",
                ("random", "left_to_right", "right_to_left"),
                when=When("objective", OBJECTIVES[1:]),
                reason="in which the blocks are predicted; published random",
            ),
            Categorical("relative_bias", (True, False), reason="both published"),
            *(
                ()
                if options.text_model is not None
                else (
                    Integer("layers", 1, 2 * options.layers, reason="depth, around the preset's"),
                    Integer(
                        "width",
                        options.head_width,
                        2 * options.width,
                        step=options.head_width,
                        reason="in whole heads, around the preset's",
                    ),
                )
            ),
        )

    @property
    def reference(self) -> Configuration:
        """The paper's own: AE + PAR, 15 %, 40 % spans of 2 to 6 tokens, random order, with the bias."""
        sizes = {} if self._pretrained is not None else {"layers": self.options.layers, "width": self.options.width}
        return self.configuration(
            {
                "objective": "ae_par",
                "par_weight": 1.0,
                "masking_rate": 0.15,
                "span_share": 0.4,
                "longest_span": 6,
                "order": "random",
                "relative_bias": True,
                **sizes,
            }
        )

    @property
    def published(self) -> Mapping[str, Configuration]:
        """The other rows of table 6, and BERT's single tokens."""
        found = {objective: self.changed(objective=objective) for objective in OBJECTIVES if objective != "ae_par"}
        found["no_relative_bias"] = self.changed(relative_bias=False)
        found["bert"] = self.changed(objective="ae", span_share=0.0, relative_bias=False)
        return found

    def changed(self, **values: Value) -> Configuration:
        """The reference with other values; what then applies no more is left out."""
        chosen = {**self.reference, **values}
        dropped = {"ae": ("par_weight", "order"), "par": ("par_weight",), "ar": ("par_weight",)}
        for name in dropped.get(str(chosen["objective"]), ()):
            del chosen[name]
        return self.configuration(chosen)

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """One spelling of each function: a weight of 0, spans that never come, and rates that mask as many tokens."""
        chosen, objective = into(values, Chosen), values["objective"]
        if chosen.par_weight == 0:
            values.pop("par_weight"), values.pop("order")
            objective = "ae"
        if chosen.span_share == 0:
            values["longest_span"] = 6
            objective = {"ar": "par", "ae_ar": "ae_par"}.get(str(objective), objective)
        words = self.options.context - 2
        count = partial(_budget, words=words)
        masked = count(chosen.masking_rate)
        rate = roundest(chosen.masking_rate, count, masked / words, 1 / words)
        values["masking_rate"] = min(max(rate, FEWEST), MOST)
        return {**values, "objective": objective}

    def plan(self, configuration: Configuration) -> Plan:
        """What the configuration's model is made of."""
        options, chosen = self.options, configuration.into(Chosen)
        masking = Masking(
            rate=chosen.masking_rate,
            span_share=chosen.span_share,
            longest=chosen.longest_span,
            order=chosen.order,
            single=chosen.objective in SINGLE and chosen.span_share > 0,
            exact=options.budget == "exact",
            random_share=options.random_share,
            kept_share=options.kept_share,
        )
        return Plan(
            body=options.text_model or self._sizes(chosen),
            masking=masking,
            autoencoding=chosen.objective.startswith("ae"),
            pseudo_weight=0.0 if chosen.objective == "ae" else chosen.par_weight,
            bias=Bias(options.relative_buckets, options.relative_distance) if chosen.relative_bias else None,
            special=options.special,
        )

    def _sizes(self, chosen: Chosen) -> Sizes:
        options, config = self.options, self._pretrained
        if config is None:
            heads = chosen.width // options.head_width
            return Sizes(options.vocabulary, chosen.width, chosen.layers, heads, options.context, options.dropout)
        return Sizes(
            config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, options.context
        )

    def build(self, configuration: Configuration) -> nn.Module:
        """A language model under the configuration's masks."""
        return PseudoMaskedLM(self.plan(configuration))

    def example_input(self, batch_size: int) -> Inputs:
        """Random texts as long as in training, and the noise of their masks."""
        special, length = self.options.special, self.options.context
        ids = special.words(torch.rand(batch_size, length), self.vocabulary)
        ids[:, 0], ids[:, -1] = special.cls, special.sep
        return {"ids": ids, "noise": torch.rand(batch_size, length, NOISE)}

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int:
        """See `costs.forward_flops`."""
        sizes = self._sizes(configuration.into(Chosen))
        hidden = 4 * sizes.width if self._pretrained is None else int(self._pretrained.intermediate_size)
        tokens = costs.passed(self.plan(configuration), self.options.context)
        return costs.forward_flops(sizes, hidden, tokens, batch_size)


def _budget(rate: float, words: int) -> int:
    return replace(Masking(), rate=rate).budget(words)
