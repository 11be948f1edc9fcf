"""The token reduction space: how many tokens a classifier keeps, by which rule and where.

EViT (Liang et al. 2022, arXiv 2202.07800) keeps what the class token attends to; ToMe (Bolya et al. 2023,
arXiv 2210.09461) merges what is alike. The network, its input and its weights are options, fixed by the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.common.counts import roundest
from naslab.search_spaces.common.modules.tokens import Reduction, layers_at, sparsify
from naslab.search_spaces.common.modules.tokens.reduction import Rule
from naslab.search_spaces.common.modules.vit import initialise
from naslab.search_spaces.configuration import Configuration, into
from naslab.search_spaces.data.packages import with_weights
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Categorical, Float, Integer, Parameter, Value, When
from naslab.search_spaces.space import SearchSpace
from naslab.search_spaces.token_reduction.model import (
    Classifier,
    forward_flops,
    load_weights,
    make_network,
    on_meta,
)

LAYERS = {"quarters": (4, (1, 2, 3)), "thirds": (3, (1, 2)), "half": (2, (1,))}
"""Where EViT selects: parts of the depth, and after how many of them."""


OWN = When("model", ("own",))


class TokenReductionOptions(Options):
    """What a study fixes. The network is `timm:NAME` of a ViT with class token, or `own` with its sizes."""

    model: str = "timm:deit_small_patch16_224"
    width: Annotated[int | None, OWN] = Field(None, ge=4)
    depth: Annotated[int | None, OWN] = Field(None, ge=2)
    heads: Annotated[int | None, OWN] = Field(None, ge=1)
    patch_size: Annotated[int | None, OWN] = Field(None, ge=1)
    in_channels: int = Field(3, ge=1)
    image_size: int = Field(224, ge=4)
    num_classes: int = Field(1000, ge=2)
    pretrained: bool | str = False
    """False: fresh weights; true: timm's, downloaded; else the path of a state dict in a safetensors file."""
    published_merges: tuple[int, ...] | None = None
    """Tokens that the published ToMe settings merge in each block; None: the share of DeiT-S's 13 of 196 in 12."""


@dataclass(frozen=True)
class Chosen:
    """A configuration's values; what does not apply has the value that does nothing."""

    rule: Rule
    keep_rate: float = 1.0
    layers: str = "quarters"
    fuse: bool = True
    merged_per_layer: int = 0
    proportional: bool = True


class TokenReduction(SearchSpace):
    """One classifier; the rule that drops its tokens, where, and how many vary."""

    name = "token_reduction"
    Options = TokenReductionOptions
    options: TokenReductionOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "model": "own",
            "width": 64,
            "depth": 4,
            "heads": 4,
            "patch_size": 4,
            "in_channels": 1,
            "image_size": 28,
            "num_classes": 10,
        },
        "small": {
            "model": "own",
            "width": 192,
            "depth": 12,
            "heads": 3,
            "patch_size": 8,
            "image_size": 96,
            "num_classes": 10,
        },
        "paper": {"model": "timm:deit_small_patch16_224"},
        "paper-vit-b": {"model": "timm:vit_base_patch16_224", "published_merges": (13, 16)},
        "paper-vit-l": {"model": "timm:vit_large_patch16_224", "published_merges": (7, 8)},
    }

    def __init__(self, options: TokenReductionOptions) -> None:
        super().__init__(options)
        self._check_options()
        with torch.device("meta"):
            self.network = self._network(pretrained=False)
            self._check_network()
        self.depth = len(self.network.blocks)
        self.patches = int(cast(Any, self.network.patch_embed).num_patches)
        self.merges = self._published_merges()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The rule, then what each takes."""
        evit, tome = When("rule", ("evit",)), When("rule", ("tome",))
        return (
            Categorical("rule", ("none", "evit", "tome"), reason="dense, selection by attention, merging of the alike"),
            Float(
                "keep_rate",
                0.3,
                1.0,
                reason="EViT keeps .5 to .9 three times over; at .3 three layers leave 3 % of the patches",
                when=evit,
            ),
            Categorical("layers", tuple(LAYERS), reason="quarters: layers 3, 6 and 9 of 12 as in EViT", when=evit),
            Categorical("fuse", (True, False), reason="the paper has both, within .2 points", when=evit),
            Integer(
                "merged_per_layer",
                0,
                self.most_merges,
                reason=f"twice the {self.patches} patches over the {self.depth} blocks: all have merged half-way",
                when=tome,
            ),
            Categorical(
                "proportional",
                (True, False),
                reason="sizes weigh in attention: on in ToMe's supervised models, off for MAE's as they come",
                when=tome,
            ),
        )

    @property
    def most_merges(self) -> int:
        """Largest `merged_per_layer`; a block merges at most half of its patches."""
        return max(1, min(self.patches // 2, 2 * self.patches // self.depth))

    @property
    def reference(self) -> Configuration:
        """EViT's own setting: keep .7 at the quarters of the depth, fused."""
        return self._evit(0.7)

    @property
    def published(self) -> Mapping[str, Configuration]:
        """The dense model, the rest of EViT's table, and ToMe's merges."""
        found = {"dense": self.configuration({"rule": "none"})}
        found |= {f"evit-{rate}": self._evit(rate) for rate in (0.9, 0.8, 0.6, 0.5)}
        found["evit-0.7-dropped"] = self._evit(0.7, fuse=False)
        for r in self.merges:
            found[f"tome-{r}"] = self.configuration({"rule": "tome", "merged_per_layer": r, "proportional": True})
        return found

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """What drops no token is the dense model; names of the same layers, and rates of the same counts, are one."""
        chosen = into(values, Chosen)

        def dropped(**changed: Any) -> tuple[int, ...]:
            return self._reduction(replace(chosen, **changed)).signature(self.patches, self.depth)

        now = dropped()
        if not any(now):
            return {"rule": "none"}
        if chosen.rule == "evit":
            values["layers"] = next(name for name in LAYERS if dropped(layers=name) == now)
            # The first block that drops has the most tokens, and so drops the most.
            exact, width = 1 - max(now) / self.patches, 1 / self.patches
            values["keep_rate"] = roundest(chosen.keep_rate, lambda rate: dropped(keep_rate=rate), exact, width)
        return values

    def build(self, configuration: Configuration) -> Classifier:
        """The classifier, with the weights that the options ask for, where they are wanted; on meta none are loaded."""
        pretrained = self.options.pretrained if with_weights() and not on_meta() else False
        network = self._network(pretrained is True)
        if isinstance(pretrained, str):
            load_weights(network, Path(pretrained).expanduser())
        return Classifier(network, self._reduction(configuration.into(Chosen)))

    def example_input(self, batch_size: int) -> dict[str, Tensor]:
        """Images (B, C, H, W) and labels (B,)."""
        options = self.options
        return {
            "images": torch.randn(batch_size, options.in_channels, options.image_size, options.image_size),
            "labels": torch.randint(options.num_classes, (batch_size,)),
        }

    def forward_flops(self, configuration: Configuration, batch_size: int) -> int:
        """See `naslab.search_spaces.token_reduction.model.forward_flops`."""
        return forward_flops(self.network, self._reduction(configuration.into(Chosen)), batch_size)

    def _evit(self, keep_rate: float, fuse: bool = True) -> Configuration:
        return self.configuration({"rule": "evit", "keep_rate": keep_rate, "layers": "quarters", "fuse": fuse})

    def _reduction(self, chosen: Chosen) -> Reduction:
        match chosen.rule:
            case "evit":
                return Reduction("evit", layers_of(chosen.layers, self.depth), chosen.keep_rate, chosen.fuse)
            case "tome":
                every = tuple(range(self.depth))
                return Reduction("tome", every, r=chosen.merged_per_layer, proportional=chosen.proportional)
        return Reduction()

    def _network(self, pretrained: bool) -> VisionTransformer:
        options = self.options
        shape = (options.in_channels, options.image_size, options.num_classes)
        if options.model != "own":
            return make_network(options.model.removeprefix("timm:"), *shape, pretrained)
        network = VisionTransformer(
            img_size=options.image_size,
            patch_size=cast(int, options.patch_size),
            in_chans=options.in_channels,
            num_classes=options.num_classes,
            embed_dim=cast(int, options.width),
            depth=cast(int, options.depth),
            num_heads=cast(int, options.heads),
        )
        initialise(network)  # timm's deviation of .02 is for wide models; narrow ones hardly start from it
        return network

    def _check_options(self) -> None:
        options = self.options
        if options.model.startswith("timm:"):
            return
        if options.model != "own":
            raise InputError(f"space.options.model: {options.model!r} is unknown; use own or timm:NAME")
        if options.width is None or options.depth is None or options.heads is None or options.patch_size is None:
            raise InputError("space.options: an own model needs width, depth, heads and patch_size")
        if options.width % options.heads:
            raise InputError(f"space.options.width: {options.width} is not divisible by {options.heads} heads")
        if options.pretrained is True:
            raise InputError("space.options.pretrained: an own model has no weights to download; use false or a path")

    def _check_network(self) -> None:
        side, options = cast(Any, self.network.patch_embed).patch_size[0], self.options
        if options.image_size % side or options.image_size < 2 * side:
            raise InputError(
                f"space.options.image_size: {options.image_size} is not two or more patches of {side} pixels a side"
            )
        try:
            sparsify(self._network(pretrained=False), 0.5, layers=(1,))
        except InputError as error:
            raise InputError(f"space.options.model: {options.model!r}: {error}") from None

    def _published_merges(self) -> tuple[int, ...]:
        chosen = self.options.published_merges
        if chosen is None:
            return (min(self.most_merges, max(1, round(13 * 12 / 196 * self.patches / self.depth))),)
        for r in chosen:
            if not 0 < r <= self.most_merges:
                raise InputError(f"space.options.published_merges: {r} is not 1 to {self.most_merges} tokens a block")
        return chosen


def layers_of(name: str, depth: int) -> tuple[int, ...]:
    """Blocks, counted from 0, at the named parts of the depth; never the first.

    Args:
        depth: blocks, 2 or more.
    """
    parts, places = LAYERS[name]
    return layers_at(depth, parts, places)
