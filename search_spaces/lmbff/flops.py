"""The closed formula for the contraction FLOPs of one prompt."""

from __future__ import annotations

from typing import Any

from naslab.search_spaces.common import costs


def forward_flops(config: Any, length: int, classes: int | None) -> int:
    """FLOPs of one forward of `length` tokens; with a new head for `classes`, or None: all words at the mask."""
    width: int = config.hidden_size
    encoder: int = config.num_hidden_layers * costs.block(length, width, config.intermediate_size)
    outputs: int = config.vocab_size if classes is None else classes
    return 2 * (encoder + costs.linear(1, width, width) + costs.linear(1, width, outputs))
