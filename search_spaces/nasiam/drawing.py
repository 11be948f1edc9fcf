"""A configuration's heads as a drawing: one row per head, one box per layer, widths between them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.nasiam.heads import Sizes
from naslab.search_spaces.nasiam.operations import PARAMETER_FREE

BOX_WIDTH, BOX_HEIGHT, GAP, ROW = 84, 30, 34, 62
COLOURS = {
    "relu": "#2f7ed8",
    "silu": "#0d9488",
    "hardswish": "#7c3aed",
    "elu": "#c2410c",
    "linear": "#475569",
    "fixed": "#94a3b8",
    "free": "#b45309",
}

PUBLISHED_LAYERS: Mapping[str, Mapping[str, tuple[tuple[str, str], ...]]] = {
    "simsiam": {
        "projector": (("relu", "F"), ("relu", "F"), ("linear+BN", "D")),
        "predictor": (("relu", "H"), ("linear", "D")),
    },
    "simclr": {"projector": (("relu", "F"), ("linear", "D"))},
    "mocov2": {"projector": (("relu, no BN", "F"), ("linear", "D"))},
    "byol": {"projector": (("relu", "H"), ("linear", "D")), "predictor": (("relu", "H"), ("linear", "D"))},
}
"""What `heads.published_heads` builds, in words, with the name of each layer's output width."""

Layer = tuple[str, int, str]
"""What stands in the box, the width after it, and the colour."""


def draw(configuration: Configuration, framework: str, sizes: Sizes) -> str:
    """The heads of a NASiam configuration as a self-contained SVG."""
    rows = _published(framework, sizes) if configuration["head"] == "published" else _searched(configuration, sizes)
    longest = max(len(layers) for _, _, layers in rows)
    width = 110 + longest * (BOX_WIDTH + GAP)
    body = "".join(_row(name, start, layers, 12 + ROW * i) for i, (name, start, layers) in enumerate(rows))
    label = escape(f"{framework}: {configuration}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" '
        f'viewBox="0 0 {width} {ROW * len(rows) + 8}" width="{width}" font-family="system-ui, sans-serif" '
        f'font-size="12"><title>{label}</title>{body}</svg>'
    )


def _searched(configuration: Configuration, sizes: Sizes) -> list[tuple[str, int, list[Layer]]]:
    rows = []
    for cell, widths in sizes.cells.items():
        layers: list[Layer] = []
        for operation, a, b in zip(configuration.chain(cell), widths[:-1], widths[1:], strict=True):
            text = "linear" if a < b and operation == "identity" else operation
            free = operation in PARAMETER_FREE and a == b
            layers.append((text, b, COLOURS["free"] if free else COLOURS.get(text, COLOURS["linear"])))
        if cell == "projector" and sizes.tail != "none":
            layers.append((sizes.tail.replace("norm", "BN"), sizes.output, COLOURS["fixed"]))
        rows.append((cell, widths[0], layers))
    return rows


def _published(framework: str, sizes: Sizes) -> list[tuple[str, int, list[Layer]]]:
    width = {"F": sizes.features, "H": sizes.hidden, "D": sizes.output}
    rows = []
    for head, layers in PUBLISHED_LAYERS[framework].items():
        start = sizes.features if head == "projector" else sizes.output
        rows.append((head, start, [(text, width[w], COLOURS.get(text, COLOURS["fixed"])) for text, w in layers]))
    return rows


def _row(name: str, start: int, layers: list[Layer], top: int) -> str:
    middle = top + BOX_HEIGHT / 2 + 4
    parts = [
        f'<text x="8" y="{middle}" fill="currentColor" font-weight="600">{name}</text>',
        f'<text x="88" y="{middle}" fill="currentColor" text-anchor="middle" font-size="10">{start}</text>',
    ]
    for i, (text, width, colour) in enumerate(layers):
        x = 104 + i * (BOX_WIDTH + GAP)
        parts.append(
            f'<rect x="{x}" y="{top}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{colour}"/>'
            f'<text x="{x + BOX_WIDTH / 2}" y="{middle}" fill="#fff" text-anchor="middle">{escape(text)}</text>'
            f'<text x="{x + BOX_WIDTH + GAP / 2}" y="{middle}" fill="currentColor" text-anchor="middle" '
            f'font-size="10">{width}</text>'
        )
    return "".join(parts)
