"""The DySI space: how much of its own predictions a decoder reads in training, and what it learns from them.

Lin, Jwalapuram, Joty 2023, *Dynamic Scheduled Sampling with Imitation Loss* (arXiv 2301.13753), and what it is compared
with: teacher forcing, the schedules of Bengio et al. 2015, and parallel sampling (Mihaylova and Martins 2019,
Duckworth et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from naslab.efficiency.inputs import Inputs
from naslab.search_spaces.common.objectives.scheduled_sampling import BY_STEP
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.data.text import FIRST_SENTINEL
from naslab.search_spaces.dysi.model import MIXES, Recipe, SequenceModel
from naslab.search_spaces.dysi.networks import OWN_IDS, forward_flops, make_model, pretrained_config, pretrained_ids
from naslab.search_spaces.dysi.options import DySIOptions
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Unless, Value, When
from naslab.search_spaces.space import SearchSpace

SCHEDULES = ("none", "dynamic", *BY_STEP, "constant")
GRID = 0.05
"""Shares are told apart by so much: they become counts of tokens of short sequences."""


class DySI(SearchSpace):
    """Schedules, strength, imitation and passes of training on own predictions."""

    name = "dysi"
    Options = DySIOptions
    options: DySIOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {},
        "small": {
            "vocabulary": 8192, "source_tokens": 128, "target_tokens": 128, "layers": 4, "width": 256, "heads": 4,
            "hidden": 704,
        },
        "paper": {
            "vocabulary": 32768, "source_tokens": 256, "target_tokens": 256, "layers": 6, "width": 1024, "heads": 16,
            "hidden": 4096, "dropout": 0.3,
        },
    }  # fmt: skip

    def __init__(self, options: DySIOptions) -> None:
        super().__init__(options)
        self.vocabulary, self.ids = options.vocabulary, OWN_IDS
        if options.pretrained is not None:
            config = pretrained_config(options)
            self.vocabulary, self.ids = config.vocab_size, pretrained_ids(config, options)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The schedule, and its own knobs."""
        sampling = Unless("schedule", ("none",))
        return (
            Categorical(
                "schedule",
                SCHEDULES,
                reason="none: teacher forcing; dynamic: DySI, by accuracy; by step as Bengio's; constant: parallel",
            ),
            Float(
                "strength",
                GRID,
                1.0,
                when=sampling,
                reason=f"the largest share that is replaced, in steps of {GRID}; Bengio's schedules end at 1",
            ),
            Float("imitation", 0.0, 2.0, when=sampling, reason="weight of the imitation loss; 0 leaves it out"),
            Integer("passes", 2, 1 + MIXES, when=sampling, reason="2 as DySI; each more costs a decoder forward"),
            Categorical(
                "candidates",
                ("argmax", "sample"),
                when=sampling,
                reason="the most probable token (DySI), or one drawn from the distribution (Duckworth)",
            ),
            Float(
                "half_life",
                GRID,
                1.0,
                when=When("schedule", BY_STEP),
                reason=f"part of the training after which half of the tokens are gold, in steps of {GRID}",
            ),
        )

    @property
    def reference(self) -> Configuration:
        """DySI: by accuracy, strength and imitation one half."""
        return self._published("dynamic")

    @property
    def published(self) -> Mapping[str, Configuration]:
        """What DySI is compared with, and its two parts apart."""
        bare: dict[str, Value] = {"imitation": 0.0}
        parallel: dict[str, Value] = {**bare, "candidates": "sample"}
        by_step = {name: self._published(name, strength=1.0, half_life=0.5, **bare) for name in BY_STEP}
        return {
            "teacher-forcing": self.configuration({"schedule": "none"}),
            **{name.replace("_", "-"): configuration for name, configuration in by_step.items()},
            "parallel": self._published("constant", **parallel),
            "parallel-3": self._published("constant", passes=3, **parallel),
            "dynamic-alone": self._published("dynamic", **bare),
            "linear-imitation": self._published("linear", strength=1.0, half_life=0.5),
        }

    def _published(self, schedule: str, **values: Value) -> Configuration:
        common: dict[str, Value] = {"strength": 0.5, "imitation": 0.5, "passes": 2, "candidates": "argmax"}
        return self.configuration({"schedule": schedule, **common, **values})

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """Shares to their grid."""
        for name in ("strength", "half_life"):
            if name in values:
                values[name] = round(max(round(float(values[name]) / GRID), 1) * GRID, 2)  # type: ignore[arg-type]
        return values

    def build(self, configuration: Configuration) -> SequenceModel:
        """A network that learns by the configuration's recipe."""
        return make_model(self.options, configuration.into(Recipe))

    def example_input(self, batch_size: int) -> Inputs:
        """Random pairs, as long as they may be; see SequenceModel.forward."""
        options, words = self.options, (FIRST_SENTINEL, self.vocabulary)
        length = (batch_size, options.target_tokens)
        return {
            "source": torch.randint(*words, (batch_size, options.source_tokens)),
            "decoder_tokens": torch.randint(*words, length),
            "targets": torch.randint(*words, length),
            "weight": torch.full(length, 1 / options.target_tokens),
            "share": torch.full((batch_size,), 0.25),
            "draw": torch.rand(batch_size, MIXES, 2),
            "noise": torch.rand(*length, MIXES, 2),
        }

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int | None:
        """See `networks.forward_flops`; a recipe changes what a training step costs, not what the model does."""
        return forward_flops(self.options, batch_size)
