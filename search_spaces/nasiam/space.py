"""The NASiam space: which operations make up the projector and predictor of a siamese framework.

Heuillet, Tabia, Arioui, Youcef-Toumi 2023 (arXiv 2302.00059). A cell is a chain of layers, each one of seven
operations. The framework and the sizes are options, fixed by the study; the operations are what is searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.search_spaces.common.modules.backbones import CONVOLUTIONAL, build_backbone
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.nasiam import drawing
from naslab.search_spaces.nasiam.frameworks import BYOL, Framework, MakeHead, MoCoV2, SimCLR, SimSiam
from naslab.search_spaces.nasiam.heads import Sizes, published_heads, same_layers, searched_heads, sizes
from naslab.search_spaces.nasiam.operations import OPERATIONS, canonical_cell
from naslab.search_spaces.nasiam.supernet import MixedHeads, NASiamSupernet
from naslab.search_spaces.options import Options
from naslab.search_spaces.parameters import Categorical, Chain, Parameter, Value, When
from naslab.search_spaces.supernet import RelaxableSpace, Relaxation


class NASiamOptions(Options):
    """What a study fixes. Widths left out take the published value, or one scaled to the built-in backbones."""

    framework: Literal["simsiam", "simclr", "mocov2", "byol"] = "simsiam"
    backbone: str = "timm:resnet18"
    in_channels: int = Field(3, ge=1)
    image_size: int = Field(32, ge=8)
    hidden_width: Annotated[int | None, When("framework", ("simsiam", "simclr", "byol"))] = Field(None, ge=2)
    """H: SimSiam's predictor bottleneck, SimCLR's cell, BYOL's published hidden layers."""
    output_width: int | None = Field(None, ge=2)
    """D: width of the projection."""
    temperature: Annotated[float, When("framework", ("simclr", "mocov2"))] = Field(0.0, ge=0)
    """Published: SimCLR .5, MoCo v2 .1 on CIFAR and .2 on ImageNet; 0 takes .5 and .1."""
    momentum: Annotated[float | None, When("framework", ("mocov2", "byol"))] = Field(None, ge=0, le=1)
    """Of the momentum encoder: published .999 for MoCo v2, .996 rising to 1 for BYOL."""
    queue_size: Annotated[int, When("framework", ("mocov2",))] = Field(4096, ge=1)
    """4096 in the search and on CIFAR, 65,536 on ImageNet."""


class NASiam(RelaxableSpace):
    """Projector and predictor cells of SimSiam, SimCLR, MoCo v2 or BYOL."""

    name = "nasiam"
    Options = NASiamOptions
    options: NASiamOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {"backbone": "tiny", "in_channels": 1, "image_size": 28, "queue_size": 1024},
        "small": {"backbone": "small", "in_channels": 1, "image_size": 28, "queue_size": 4096},
        "paper": {"backbone": "timm:resnet18", "in_channels": 3, "image_size": 32},
        "paper-simclr": {
            "framework": "simclr",
            "backbone": "timm:resnet50",
            "in_channels": 3,
            "image_size": 32,
        },
        "paper-mocov2": {
            "framework": "mocov2",
            "backbone": "timm:resnet18",
            "in_channels": 3,
            "image_size": 32,
        },
        "paper-byol": {"framework": "byol", "backbone": "timm:resnet18", "in_channels": 3, "image_size": 32},
    }

    def __init__(self, options: NASiamOptions) -> None:
        super().__init__(options)
        with torch.device("meta"):
            _, num_features = self._backbone()
        self.sizes: Sizes = sizes(
            options.framework,
            num_features,
            options.hidden_width,
            options.output_width,
            paper=options.backbone not in CONVOLUTIONAL,
        )

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """`head`, and one chain per searched cell. The published head is valid, but no engine proposes it."""
        searched = When("head", ("cell",))
        chains = [
            Chain(
                cell,
                OPERATIONS,
                len(widths) - 1,
                when=searched,
                reason=f"the paper's seven candidates in every layer; widths {'-'.join(map(str, widths))}",
            )
            for cell, widths in self.sizes.cells.items()
        ]
        head = Categorical(
            "head",
            ("cell", "published"),
            proposed=("cell",),
            reason="published: the framework's own MLPs, the reference; cell: searched operations",
        )
        return (head, *chains)

    @property
    def reference(self) -> Configuration:
        """The framework's published heads."""
        return self.configuration({"head": "published"})

    @property
    def published(self) -> Mapping[str, Configuration]:
        """Genotypes of the paper's code for this framework, by data set and backbone."""
        return {
            name: self.configuration({"head": "cell", **cells})
            for name, cells in PUBLISHED_GENOTYPES.get(self.options.framework, {}).items()
        }

    def canonicalise(self, values: dict[str, Value]) -> dict[str, Value]:
        """Give cells that are one function one form, that of the published heads where they are these."""
        cells = {
            name: canonical_cell(operations, self.sizes.cells[name])
            for name, operations in values.items()
            if isinstance(operations, tuple)
        }
        if cells and same_layers(searched_heads(self.sizes, cells), self._published_heads()):
            return {"head": "published"}
        return values | cells

    def genotype(self, choices: Mapping[str, tuple[str, ...]]) -> Configuration:
        """The configuration whose cells have the given operations."""
        return self.configuration({"head": "cell", **choices})

    def build(self, configuration: Configuration) -> Framework:
        """Backbone, heads and loss of the configuration."""
        if configuration["head"] == "published":
            return self._framework(*self._published_heads())
        cells = {cell: configuration.chain(cell) for cell in self.sizes.cells}
        return self._framework(*searched_heads(self.sizes, cells))

    def supernet(self, relaxation: Relaxation, partial_channels: int = 1) -> NASiamSupernet:
        """Every candidate in every layer of both cells; see RelaxableSpace.supernet."""
        heads = MixedHeads(self.sizes, relaxation, partial_channels)
        return NASiamSupernet(self._framework(heads.projector, heads.predictor), heads)

    def example_input(self, batch_size: int) -> Tensor:
        """Images (B, C, H, W)."""
        return torch.randn(batch_size, self.options.in_channels, self.options.image_size, self.options.image_size)

    def draw(self, configuration: Configuration) -> str:
        """The heads as a chain of boxes, one row per head (SVG)."""
        return drawing.draw(configuration, self.options.framework, self.sizes)

    def _published_heads(self) -> tuple[MakeHead, MakeHead]:
        return published_heads(self.options.framework, self.sizes)

    def _backbone(self) -> tuple[nn.Module, int]:
        return build_backbone(self.options.backbone, self.options.in_channels, self.options.image_size)

    def _framework(self, projector: MakeHead, predictor: MakeHead) -> Framework:
        options = self.options

        def backbone() -> nn.Module:
            return self._backbone()[0]

        match options.framework:
            case "simsiam":
                return SimSiam(backbone, projector, predictor)
            case "simclr":
                return SimCLR(backbone, projector, predictor, options.temperature or 0.5)
            case "mocov2":
                momentum = 0.999 if options.momentum is None else options.momentum
                temperature = options.temperature or 0.1
                return MoCoV2(
                    backbone,
                    projector,
                    predictor,
                    temperature,
                    momentum,
                    options.queue_size,
                    self.sizes.output,
                )
            case "byol":
                return BYOL(backbone, projector, predictor, 0.996 if options.momentum is None else options.momentum)


PUBLISHED_GENOTYPES: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "simsiam": {
        "cifar10-resnet18": {
            "projector": ("relu", "silu", "elu", "identity", "identity", "relu"),
            "predictor": ("hardswish", "avgpool", "avgpool", "hardswish"),
        },
        "cifar10-resnet50": {
            "projector": ("silu", "hardswish", "hardswish", "hardswish", "silu", "silu"),
            "predictor": ("hardswish", "hardswish", "avgpool", "silu"),
        },
        "cifar100-resnet50": {
            "projector": ("identity", "silu", "silu", "elu", "silu", "elu"),
            "predictor": ("elu", "elu", "elu", "hardswish"),
        },
    },
    "mocov2": {
        "cifar10-resnet18": {"projector": ("avgpool",) * 4},
        "cifar100-resnet18": {"projector": ("avgpool",) * 4},
        "cifar10-resnet50": {"projector": ("identity", "avgpool", "avgpool", "avgpool")},
    },
    "simclr": {
        "cifar10-resnet50": {"projector": ("hardswish", "hardswish", "avgpool", "relu", "relu", "relu")},
    },
}
"""As the paper's code lists them; a configuration has their canonical form."""
