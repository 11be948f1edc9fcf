"""The PMLM space: which masks, which order and which losses a bidirectional language model is pre-trained with.

Bao et al., *UniLMv2: Pseudo-Masked Language Models for Unified Language Model Pre-Training* (ICML 2020, arXiv
2002.12804), with the ablations of its table 6 and BERT's own masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common.counts import roundest
from naslab.search_spaces.common.modules.bert import FEWEST_POSITIONS, pretrained_config
from naslab.search_spaces.common.modules.masked_lm import BertSizes
from naslab.search_spaces.common.modules.relative_bias import BiasSizes
from naslab.search_spaces.common.objectives.fates import fates_beside
from naslab.search_spaces.common.objectives.masked_blocks import NOISE, Masking, Order
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.options import Network, Options
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Value, When
from naslab.search_spaces.pmlm import costs
from naslab.search_spaces.pmlm.model import Objective, Plan, PseudoMaskedLM
from naslab.search_spaces.space import SearchSpace

OBJECTIVES = ("ae", "par", "ae_par", "ar", "ae_ar")
ORDERS: tuple[Order, ...] = ("random", "left_to_right", "right_to_left")
JOINT = ("ae_par", "ae_ar")
SINGLE = ("ar", "ae_ar")
TENTHS = tuple(tenth / 10 for tenth in range(11))
OWN_TEXT = When("text_model", (None,))
FEWEST, MOST = 0.05, 0.5
"""Shares of masked tokens."""
PUBLISHED: Mapping[str, Value] = {
    "objective": "ae_par", "par_weight": 1.0, "masking_rate": 0.15, "span_share": 0.4, "longest_span": 6,
    "order": "random", "relative_bias": True,
}  # fmt: skip
PAPER = {"vocabulary": 30522, "width": 768, "head_width": 64, "layers": 12, "context": 512}


class PMLMOptions(Options):
    """What a study fixes. Sizes are those of the reference; `layers` and `width` vary around them."""

    text_model: Annotated[str | None, Network()] = None
    """A pre-trained BERT by name or folder, head for masked words included, which brings the sizes."""
    vocabulary: Annotated[int, OWN_TEXT] = Field(4096, ge=64, le=2**20)
    context: int = Field(128, ge=8, le=2**14)
    """Tokens of a training text, [CLS] and [SEP] among them."""
    layers: Annotated[int, OWN_TEXT] = Field(4, ge=1, le=1000)
    width: Annotated[int, OWN_TEXT] = Field(128, ge=2, le=2**14)
    head_width: Annotated[int, OWN_TEXT] = Field(32, ge=1, le=2**14)
    dropout: Annotated[float, OWN_TEXT] = Field(0.0, ge=0, lt=1)
    relative_buckets: int = Field(32, ge=4, le=2**14)
    relative_distance: int = Field(128, ge=2, le=2**20)
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
        name = options.text_model
        self._pretrained = None if name is None else BertSizes.of(pretrained_config(name))
        self.fates = fates_beside(options.random_share, options.kept_share, "space.options")
        if options.width % options.head_width:
            raise InputError(
                f"space.options.width: {options.width} is not a multiple of head_width {options.head_width}"
            )
        if options.relative_distance <= options.relative_buckets // 4:
            raise InputError(
                f"space.options.relative_distance: {options.relative_distance} must be more than a quarter of "
                f"relative_buckets {options.relative_buckets}"
            )
        if not options.special.fit(self.vocabulary):
            raise InputError(
                f"space.options.special: {asdict(options.special)} must differ and leave words in a vocabulary of "
                f"{self.vocabulary}"
            )
        if options.context > self.positions:
            raise InputError(
                f"space.options.context: {options.context} tokens are more than the {self.positions} positions of "
                f"{name}"
            )

    @property
    def vocabulary(self) -> int:
        """Words that a model scores."""
        return self.options.vocabulary if self._pretrained is None else self._pretrained.vocabulary

    @property
    def positions(self) -> int:
        """Tokens that a model has positions for."""
        return max(FEWEST_POSITIONS, self.options.context) if self._pretrained is None else self._pretrained.positions

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Objective, masks and order, the bias, and the sizes of what is not pre-trained."""
        options, names = self.options, OBJECTIVES
        shared: tuple[Parameter, ...] = (
            Categorical("objective", names, reason="the rows of the paper's table 6"),
            Float(
                "par_weight", 0.0, 4.0, when=When("objective", JOINT), reason="of the pseudo masks' loss; published 1"
            ),
            Float("masking_rate", FEWEST, MOST, reason="published .15; beyond half there is little left to read"),
            Categorical(
                "span_share", TENTHS, reason="how likely a block is a span; published .4, 0 masks single tokens"
            ),
            Integer("longest_span", 2, 10, reason="published 6"),
            Categorical("order", ORDERS, when=When("objective", names[1:]), reason="of the blocks; published random"),
            Categorical("relative_bias", (True, False), reason="both published"),
        )
        if self._pretrained is not None:
            return shared
        head, widest = options.head_width, 2 * options.width
        return (
            *shared,
            Integer("layers", 1, 2 * options.layers, reason="depth, around the preset's"),
            Integer("width", head, widest, step=head, reason="in whole heads, around the preset's"),
        )

    @property
    def reference(self) -> Configuration:
        """The paper's own: AE + PAR, 15 %, 40 % spans of 2 to 6 tokens, random order, with the bias."""
        sizes = {} if self._pretrained is not None else {"layers": self.options.layers, "width": self.options.width}
        return self.configuration({**PUBLISHED, **sizes})

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
        masked = Masking(chosen.masking_rate).budget(words)
        rate = roundest(chosen.masking_rate, lambda rate: Masking(rate).budget(words), masked / words, 1 / words)
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
            fates=self.fates,
        )
        return Plan(
            body=options.text_model or self._sizes(chosen),
            masking=masking,
            autoencoding=chosen.objective.startswith("ae"),
            pseudo_weight=0.0 if chosen.objective == "ae" else chosen.par_weight,
            bias=BiasSizes(options.relative_buckets, options.relative_distance) if chosen.relative_bias else None,
            special=options.special,
        )

    def _sizes(self, chosen: Chosen) -> BertSizes:
        if self._pretrained is not None:
            return self._pretrained
        options, width = self.options, chosen.width
        heads, hidden = width // options.head_width, 4 * width
        return BertSizes(options.vocabulary, width, chosen.layers, heads, hidden, self.positions, options.dropout)

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
        tokens = costs.passed(self.plan(configuration), self.options.context)
        return costs.forward_flops(self._sizes(configuration.into(Chosen)), tokens, batch_size)
