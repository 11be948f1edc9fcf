"""Projector and predictor: published MLPs and searched cells, and the widths of both.

Names as in the paper: F backbone features, H hidden width, D width of the projection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from naslab.search_spaces.nasiam.frameworks import MakeHead
from naslab.search_spaces.nasiam.operations import Activation, cell


@dataclass(frozen=True)
class Sizes:
    """Widths of one framework's heads.

    `cells` maps each searched head to the widths between its layers. `tail` says what follows the projector
    cell: nothing, a Linear to D, or SimSiam's Linear and BatchNorm without affine parameters.
    """

    features: int
    hidden: int
    output: int
    cells: Mapping[str, tuple[int, ...]]
    tail: str


def sizes(framework: str, features: int, hidden: int | None, output: int | None, paper: bool) -> Sizes:
    """Widths of the cells: section 1 of the published code's configuration, or scaled to a small backbone.

    BYOL was not searched in the paper; its cells take SimSiam's shapes (inferred).
    """
    f = features
    if framework == "simsiam":
        d = output or (2048 if paper else f)
        h = hidden or max(d // 4, 1)
        return Sizes(f, h, d, {"projector": (f,) * 7, "predictor": (d, h, h, h, d)}, "linear+norm")
    if framework == "simclr":
        d, h = output or (128 if paper else f // 4), hidden or (512 if paper else f // 2)
        return Sizes(f, h, d, {"projector": (f, h, h, h, h, h, d)}, "none")
    if framework == "mocov2":
        d = output or (128 if paper else f // 2)
        return Sizes(f, hidden or f, d, {"projector": (f,) * 5}, "linear")
    d, h = output or (256 if paper else f // 2), hidden or (4096 if paper else 2 * f)
    narrow = max(d // 4, 1)
    return Sizes(f, h, d, {"projector": (f,) * 7, "predictor": (d, narrow, narrow, narrow, d)}, "linear")


def tail(size: Sizes) -> tuple[nn.Module, ...]:
    """The fixed layers between the projector cell and the projection."""
    if size.tail == "none":
        return ()
    linear = nn.Linear(size.features, size.output)
    if size.tail == "linear":
        return (linear,)
    linear.bias.requires_grad_(False)  # the normalisation that follows removes any bias
    return (linear, nn.BatchNorm1d(size.output, affine=False))


def searched_heads(size: Sizes, genotype: Mapping[str, tuple[str, ...]]) -> tuple[MakeHead, MakeHead]:
    """Factories of projector and predictor with the genotype's operations."""
    widths = size.cells

    def projector() -> nn.Module:
        return nn.Sequential(*cell(genotype["projector"], widths["projector"]), *tail(size))

    def predictor() -> nn.Module:
        return cell(genotype["predictor"], widths["predictor"])

    return projector, predictor


def same_layers(ours: Iterable[MakeHead], theirs: Iterable[MakeHead]) -> bool:
    """Whether heads are the same layers, those that do nothing aside."""
    return all(_layers(a) == _layers(b) for a, b in zip(ours, theirs, strict=True))


def _layers(make: MakeHead) -> list[str]:
    with torch.device("meta"):
        return [str(m) for m in make().modules() if not list(m.children()) and not isinstance(m, nn.Identity)]


def published_heads(framework: str, size: Sizes) -> tuple[MakeHead, MakeHead]:
    """Factories of the heads that each framework published; a framework without predictor ignores the second."""
    f, h, d = size.features, size.hidden, size.output

    def block(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
        return nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), Activation("relu")

    match framework:
        case "simsiam":
            return (
                lambda: nn.Sequential(*block(f, f), *block(f, f), *tail(size)),
                lambda: nn.Sequential(*block(d, h), nn.Linear(h, d)),
            )
        case "simclr":
            return lambda: nn.Sequential(*block(f, f), nn.Linear(f, d)), nn.Identity
        case "mocov2":
            return lambda: nn.Sequential(nn.Linear(f, f), nn.ReLU(), nn.Linear(f, d)), nn.Identity
        case _:
            return (
                lambda: nn.Sequential(*block(f, h), nn.Linear(h, d)),
                lambda: nn.Sequential(*block(d, h), nn.Linear(h, d)),
            )
