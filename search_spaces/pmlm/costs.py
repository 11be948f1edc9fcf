"""The closed formula for the contraction FLOPs of a masked pass."""

from __future__ import annotations

from dataclasses import dataclass

from naslab.search_spaces.common import costs
from naslab.search_spaces.common.modules.masked_lm import BertSizes
from naslab.search_spaces.pmlm.model import Plan


@dataclass(frozen=True)
class Pass:
    """Tokens of a pass: of the text, of the slots behind it (0: none), and how many are predicted."""

    length: int
    slots: int
    predicted: int


def forward_flops(sizes: BertSizes, tokens: Pass, batch_size: int) -> int:
    """FLOPs of a forward: the text attends to itself, originals and pseudo masks to everything."""
    width, behind = sizes.width, 2 * tokens.slots
    whole = tokens.length + behind
    attention = costs.attention(tokens.length, width) + costs.linear(behind, width, 4 * width)
    attention += 2 * behind * whole * width
    layer = attention + costs.mlp(whole, width, sizes.hidden)
    return 2 * batch_size * (sizes.layers * layer + sizes.head(tokens.predicted))


def passed(plan: Plan, length: int) -> Pass:
    """Tokens of a training pass over texts of `length`."""
    number = plan.masking.slots(length)
    joint = plan.pseudo_weight > 0
    return Pass(length, number if joint else 0, number * (plan.autoencoding + joint))
