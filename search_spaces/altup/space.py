"""The AltUp space: how wide a residual stream a transformer carries beside the width that its layers compute on.

Baykal et al., *Alternating Updates for Efficient Transformers* (NeurIPS 2023, arXiv 2301.13310), with its variants,
Gemma 3n's coefficients per token, and the baselines dense, wider dense, Sum and Hyper-Connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.altup import costs
from naslab.search_spaces.altup.coefficients import GEMMA_CLIP, Kind
from naslab.search_spaces.altup.model import Form, Method, Plan, make_model
from naslab.search_spaces.altup.stack import Selection
from naslab.search_spaces.common.modules.experts import ExpertSizes
from naslab.search_spaces.common.objectives.spans import span_shape
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Categorical, Integer, Parameter, Value, When
from naslab.search_spaces.space import SearchSpace

METHODS = ("dense", "altup", "recycled", "sequence", "sum", "hyper_connections", "dense_wide")
WIDENED = ("altup", "recycled", "sum", "hyper_connections", "dense_wide")
WIDEST = 4
"""Layers may be this many times as wide as the options say."""


class AltUpOptions(Options):
    """What a study fixes. Sizes are those of the reference; `layers` and `width` vary around them."""

    form: Form = "decoder"
    vocabulary: int = Field(1024, ge=260)
    """Embeddings; the tokenizer trained on the task's text has at most as many tokens, 256 bytes among them."""
    context: int = Field(128, ge=4)
    """Tokens of a training window; of the encoder where there is one."""
    layers: int = Field(4, ge=1)
    width: int = Field(64, ge=2)
    head_width: int = Field(16, ge=2)
    hidden: int = Field(176, ge=1)
    """Of the gated feed-forward at `width`; scaled with the width."""
    collapse: Literal["mean", "sum"] = "mean"
    """How width-d streams leave a stack; the paper sums, which is the mean but for the final norm's epsilon."""
    layer_input: Literal["stream", "prediction"] | None = None
    """What a layer sees: see AltUpStack. None: as the paper with static coefficients, else as Gemma 3n."""
    coefficient_clip: float | None = Field(GEMMA_CLIP, gt=0)
    top_k: int = Field(1, ge=1)
    capacity_factor: float = Field(1.25, gt=0)
    expert_hidden: int | None = Field(None, ge=1)
    """Width of partial experts beside the dense layer; None: experts of the full width in its place (Switch)."""
    expert_every: int = Field(2, ge=1)
    balance_weight: float = Field(0.01, ge=0)


@dataclass(frozen=True)
class Chosen:
    """A configuration's values; what does not apply has the value that does nothing."""

    method: Method
    layers: int
    width: int
    experts: int
    streams: int = 1
    coefficients: Kind = "static"
    selection: Selection = "alternating"
    stride: int = 1


class AltUp(SearchSpace):
    """Language models whose residual stream is K times as wide as their layers."""

    name = "altup"
    Options = AltUpOptions
    options: AltUpOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {},
        "small": {"vocabulary": 8192, "context": 512, "layers": 8, "width": 512, "head_width": 64, "hidden": 1408},
        "paper": {
            "form": "encoder_decoder", "vocabulary": 32128, "context": 512, "layers": 12, "width": 768,
            "head_width": 64, "hidden": 2048,
        },
        "paper-small": {
            "form": "encoder_decoder", "vocabulary": 32128, "context": 512, "layers": 6, "width": 512,
            "head_width": 64, "hidden": 1024,
        },
        "paper-large": {
            "form": "encoder_decoder", "vocabulary": 32128, "context": 512, "layers": 24, "width": 1024,
            "head_width": 64, "hidden": 2816,
        },
    }  # fmt: skip

    def __init__(self, options: AltUpOptions) -> None:
        super().__init__(options)
        if options.head_width % 2:
            raise InputError(f"space.options.head_width: {options.head_width} is odd; rotary positions turn pairs")
        if options.width % options.head_width:
            raise InputError(
                f"space.options.width: {options.width} is not a multiple of head_width {options.head_width}"
            )

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Method, its own knobs, and the sizes that all share."""
        options = self.options
        return (
            Categorical(
                "method",
                METHODS,
                reason="full AltUp, its published variants, and the baselines that it must beat at equal cost",
            ),
            Integer(
                "streams",
                1,
                8,
                when=When("method", WIDENED),
                reason="K: published 2 and 4; 1 is dense; the cost of mixing grows with its square",
            ),
            Categorical(
                "coefficients",
                ("static", "per_token"),
                when=When("method", ("altup", "recycled", "hyper_connections")),
                reason="static: scalars of the layer, AltUp's and SHC's; per_token: Gemma 3n's router, DHC's",
            ),
            Categorical(
                "selection",
                ("alternating", "same"),
                when=When("method", ("altup", "recycled")),
                reason="alternating: stream l mod K, the paper's default; same: always the first, as in Gemma 3n",
            ),
            Integer(
                "stride",
                1,
                16,
                when=When("method", ("sequence",)),
                reason="published 4; 1 is dense; at 16 the inner layers see one token in sixteen",
            ),
            Integer(
                "layers",
                1,
                4 * options.layers,
                reason="depth is the other way to spend the cost of width; around the preset's",
            ),
            Integer(
                "width",
                options.head_width,
                WIDEST * options.width,
                step=options.head_width,
                reason="d, the width that layers compute on, in whole heads: what AltUp lets stay small",
            ),
            Categorical(
                "experts",
                (0, 2, 4, 8, 16, 32, 64, 128),
                proposed=(0, 4, 8),
                reason="0: none; a sparse mixture adds parameters where AltUp adds width, published as complementary",
            ),
        )

    @property
    def reference(self) -> Configuration:
        """AltUp as published: K = 2, static coefficients, alternating."""
        return self._published("altup", streams=2, coefficients="static", selection="alternating")

    @property
    def published(self) -> Mapping[str, Configuration]:
        """The paper's other models and the baselines."""
        static = {"coefficients": "static", "selection": "alternating"}
        named = {
            "dense": self._published("dense"),
            "altup-4": self._published("altup", streams=4, **static),
            "same-up": self._published("altup", streams=2, coefficients="static", selection="same"),
            "recycled-altup": self._published("recycled", streams=2, **static),
            "sum": self._published("sum", streams=2),
            "dense-2x": self._published("dense_wide", streams=2),
            "gemma3n-coefficients": self._published("recycled", streams=4, coefficients="per_token", selection="same"),
            "shc-2": self._published("hyper_connections", streams=2, coefficients="static"),
            "dhc-2": self._published("hyper_connections", streams=2, coefficients="per_token"),
            "dhc-4": self._published("hyper_connections", streams=4, coefficients="per_token"),
        }
        if self.options.layers > 2:
            named["sequence-altup"] = self._published("sequence", stride=4)
        return named

    def _published(self, method: str, **values: Value) -> Configuration:
        sizes = {"layers": self.options.layers, "width": self.options.width, "experts": 0}
        return self.configuration({"method": method, **values, **sizes})

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """One stream, stride 1 or no inner layer to thin out is dense; K times the width, where allowed, a dense width.

        A stack too short for a mixture has no experts, and one layer alone does not alternate.

        One stream of Hyper-Connections stays: it has learned weights on its residual connection.

        Raises:
            InputError: the stride is longer than the sequence, or fewer experts than each token is to have.
        """
        chosen, options = into(values, Chosen), self.options
        if chosen.stride > options.context:
            raise InputError(f"stride: {chosen.stride} is longer than the sequence of {options.context} tokens")
        if chosen.experts and chosen.experts < options.top_k:
            raise InputError(
                f"experts: {chosen.experts} are fewer than the top_k {options.top_k} that each token takes"
            )
        if chosen.layers < options.expert_every:
            values["experts"] = 0
        if chosen.layers == 1 and "selection" in values:
            values["selection"] = "alternating"
        if chosen.method == "dense_wide":
            values["streams"], values["width"] = self._fewest_streams(chosen.streams * chosen.width)
        thinned = chosen.method == "sequence" and chosen.stride > 1 and chosen.layers > 2
        several = chosen.method in WIDENED and (values["streams"] != 1 or chosen.method == "hyper_connections")
        if not thinned and not several:
            return {"method": "dense", **{name: values[name] for name in ("layers", "width", "experts")}}
        return values

    def _fewest_streams(self, total: int) -> tuple[int, int]:
        """Streams and their width, in whole heads, of a dense layer that is `total` wide."""
        widest, step = WIDEST * self.options.width, self.options.head_width
        streams = next(k for k in range(1, total) if total % (k * step) == 0 and total // k <= widest)
        return streams, total // streams

    def plan(self, configuration: Configuration) -> Plan:
        """What the configuration's model is made of."""
        options, chosen = self.options, configuration.into(Chosen)
        streams, width = chosen.streams, chosen.width
        if chosen.method == "dense_wide":
            streams, width = 1, streams * width
        hidden = max(round(options.hidden * width / options.width), 1)
        plan = Plan(
            options.form,
            chosen.method,
            options.vocabulary,
            chosen.layers,
            width,
            hidden,
            options.head_width,
            streams,
            chosen.coefficients,
            chosen.selection,
            chosen.stride,
            options.collapse,
            options.layer_input,
            options.coefficient_clip,
            expert_every=options.expert_every,
            balance_weight=options.balance_weight,
        )
        number, partial = chosen.experts, options.expert_hidden
        if not number:
            return plan
        sizes = ExpertSizes(number, partial or hidden, options.top_k, options.capacity_factor, partial is not None)
        return replace(plan, experts=sizes)

    def build(self, configuration: Configuration) -> nn.Module:
        """A language model with the configuration's streams."""
        return make_model(self.plan(configuration))

    def example_input(self, batch_size: int) -> Inputs:
        """Random tokens and targets, as long as in training."""
        options = self.options
        lengths = {"tokens": options.context, "targets": options.context}
        if options.form == "encoder_decoder":
            shape = span_shape(options.context)
            lengths = {"tokens": shape.inputs, "decoder_tokens": shape.targets, "targets": shape.targets}
        return {name: torch.randint(options.vocabulary, (batch_size, n)) for name, n in lengths.items()}

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int:
        """See `costs.forward_flops`; the lengths are those of `example_input`."""
        if self.options.form == "decoder":
            return costs.forward_flops(self.plan(configuration), batch_size, self.options.context)
        shape = span_shape(self.options.context)
        return costs.forward_flops(self.plan(configuration), batch_size, shape.targets, shape.inputs)
