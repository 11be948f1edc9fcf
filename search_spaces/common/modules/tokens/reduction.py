"""What a rule and its rates make of a number of tokens: how many enter and leave each block, and what that costs."""

from __future__ import annotations

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

    def left(self, free: int) -> int:
        """How many of `free` tokens leave a block that drops, the fused one among them."""
        if self.rule == "tome":
            return free - self.merges(free)
        kept = kept_tokens(free, self.keep_rate) if self.rule == "evit" else free
        return kept + int(self.fuse and kept < free)

    def schedule(self, free: int, depth: int) -> list[tuple[int, int]]:
        """By block, of the tokens that are not protected: how many enter, how many are left for the MLP and after."""
        steps = []
        for layer in range(depth):
            entered, free = free, self.left(free) if layer in self.layers else free
            steps.append((entered, free))
        return steps

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
        dropped = free - kept_tokens(free, self.keep_rate)
        return (tokens + (dropped if self.fuse else 0)) * width if dropped else 0
