"""What a rule and its rates make of a number of tokens: how many enter and leave each block, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from naslab.search_spaces.common.costs import stack
from naslab.search_spaces.common.counts import kept_tokens

Rule: TypeAlias = Literal["none", "evit", "tome"]


@dataclass(frozen=True)
class Reduction:
    """How a transformer loses tokens: EViT's selection or ToMe's merging in some of its blocks.

    Attributes:
        layers: blocks that drop, counted from 0.
        keep_rate: share of the tokens that stay beside the protected ones, rounded up.
        fuse: EViT: what is dropped is one more token.
        r: ToMe: tokens to merge in a block; None: as `keep_rate` says. Never more than half.
        proportional: ToMe: attention counts a merged token as often as it stands for.
    """

    rule: Rule = "none"
    layers: tuple[int, ...] = ()
    keep_rate: float = 1.0
    fuse: bool = True
    r: int | None = None
    proportional: bool = True

    def merges(self, free: int) -> int:
        """How many of `free` tokens a block merges into others."""
        return min(free - kept_tokens(free, self.keep_rate) if self.r is None else self.r, free // 2)

    def dropped(self, free: int) -> int:
        """How many of `free` tokens do not go on by themselves from a block that drops."""
        if self.rule == "tome":
            return self.merges(free)
        return free - kept_tokens(free, self.keep_rate) if self.rule == "evit" else 0

    def left(self, free: int) -> int:
        """How many leave a block that `free` tokens entered, the fused one among them."""
        dropped = self.dropped(free)
        return free - dropped + int(self.rule == "evit" and self.fuse and dropped > 0)

    def schedule(self, free: int, depth: int) -> list[tuple[int, int]]:
        """By block, of the tokens that are not protected: how many enter, how many are left for the MLP and after."""
        steps = []
        for layer in range(depth):
            entered, free = free, self.left(free) if layer in self.layers else free
            steps.append((entered, free))
        return steps

    def signature(self, free: int, depth: int) -> tuple[int, ...]:
        """How many tokens each of `depth` blocks drops: all that layers and rates decide."""
        return tuple(
            self.dropped(entered) if layer in self.layers else 0
            for layer, (entered, _) in enumerate(self.schedule(free, depth))
        )

    def macs(self, free: int, depth: int, prefix: int, width: int, heads: int, hidden: int) -> int:
        """Multiply-adds of `depth` blocks that `free` tokens and `prefix` protected ones enter, the rule's own too.

        EViT's scores cost a row of the attention, its fused token one sum; ToMe compares half of the tokens with the
        other half.
        """
        steps = self.schedule(free, depth)
        blocks = stack([(entered + prefix, left + prefix) for entered, left in steps], width, hidden)
        return blocks + sum(self._rule_macs(steps[layer][0], prefix, width, heads) for layer in self.layers)

    def _rule_macs(self, free: int, prefix: int, width: int, heads: int) -> int:
        tokens = free + prefix
        if self.rule == "tome":
            return (tokens + 1) // 2 * (tokens // 2) * (width // heads) if self.merges(free) else 0
        dropped = self.dropped(free)
        return (tokens + (dropped if self.fuse else 0)) * width if dropped else 0


def layers_at(depth: int, parts: int, places: Iterable[int]) -> tuple[int, ...]:
    """Blocks, counted from 0, after some of `parts` equal parts of the depth; never the first."""
    return tuple(sorted({max(1, place * depth // parts) for place in places} & set(range(depth))))
