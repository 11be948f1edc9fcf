"""The closed cost of transformers, in multiply-adds of one sample; a multiply-add is 2 FLOPs.

Contractions alone are counted: norms, activations and sums are below 1 % of a block.
"""

from __future__ import annotations

from collections.abc import Iterable


def linear(tokens: int, width: int, outputs: int) -> int:
    """A matrix, width x outputs, on every token; a patch embedding is one on the values of each patch."""
    return tokens * width * outputs


def attention(queries: int, width: int, keys: int | None = None, key_width: int | None = None) -> int:
    """Multi-head attention: projections of queries and outputs, of keys and values, and the two products.

    Args:
        keys, key_width: of what is attended to across; None: the queries themselves.
    """
    keys = queries if keys is None else keys
    key_width = width if key_width is None else key_width
    return 2 * queries * width**2 + 2 * keys * key_width * width + 2 * queries * keys * width


def mlp(tokens: int, width: int, hidden: int, gated: bool = False) -> int:
    """Two matrices, or the three of a gated layer."""
    return (3 if gated else 2) * tokens * width * hidden


def block(tokens: int, width: int, hidden: int, left: int | None = None) -> int:
    """A pre-norm block: attention among `tokens`, then the MLP on those `left`; None: all."""
    return attention(tokens, width) + mlp(tokens if left is None else left, width, hidden)


def stack(schedule: Iterable[tuple[int, int]], width: int, hidden: int) -> int:
    """Blocks by the tokens that enter each and those that leave it; `[(n, n)] * depth` where none are dropped."""
    return sum(block(entered, width, hidden, left) for entered, left in schedule)
