"""Transformer blocks that lose tokens between their attention and their MLP, made of timm's own parts.

A block takes over the parts of a timm block under their names, so that weights load and save as before. Attention is
the fused one; what a rule needs beside it (the class token's row, the mean of the keys) is computed by itself.

Names: B batch, N tokens, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.kernels import Matching, bipartite_match, class_scores, merge_tokens, select_tokens
from naslab.search_spaces.common.counts import kept_tokens
from naslab.search_spaces.common.modules.tokens.reduction import Reduction

State: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Tokens, or tokens and how many of the image's each stands for."""


class Step(NamedTuple):
    """What leaves a block: tokens (B, N, D), how many each stands for (B, N) once any merged, and what was dropped.

    `dropped` is None where nothing was, the patches (B, K) that were kept, best first, or which were merged.
    """

    tokens_BND: Tensor
    sizes_BN: Tensor | None = None
    dropped: Tensor | Matching | None = None


class SparseBlock(nn.Module):
    """The parts of a timm pre-norm block. By itself it drops nothing; subclasses do between `attend` and `transform`.

    Args:
        block: the timm block to take over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)
        self.training = block.training

    def step(self, x_BND: Tensor, sizes_BN: Tensor | None = None) -> Step:
        """One block; a key with a size counts as that many keys."""
        return Step(self.transform(self.attend(x_BND, sizes_BN)[0]), sizes_BN)

    def forward(self, x_BND: Any) -> Any:
        """Tokens (B, N, D) to tokens, as in timm's block."""
        return self.step(x_BND).tokens_BND

    def attend(self, x_BND: Tensor, sizes_BN: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens after the attention's residual, its queries and keys (B, H, N, D / H).

        A key with a size counts as that many keys (Bolya et al. 2023, equation 1).
        """
        block: Any = self
        attention, normed = block.attn, block.norm1(x_BND)
        batch, tokens, _ = normed.shape
        joint = attention.qkv(normed).reshape(batch, tokens, 3, attention.num_heads, -1)
        query, keys, values = joint.permute(2, 0, 3, 1, 4).unbind(0)
        query, keys = attention.q_norm(query), attention.k_norm(keys)
        bias = None if sizes_BN is None else sizes_BN.log()[:, None, None].to(query.dtype)
        dropout = attention.attn_drop.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, dropout_p=dropout)
        mixed = attention.norm(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        gate = getattr(attention, "gate", None)  # not in older timm
        if gate is not None:
            mixed = mixed * gate(normed).sigmoid()
        mixed = attention.proj_drop(attention.proj(mixed))
        return x_BND + block.drop_path1(block.ls1(mixed)), query, keys

    def transform(self, x_BND: Tensor) -> Tensor:
        """The tokens after the MLP's residual."""
        block: Any = self
        moved: Tensor = x_BND + block.drop_path2(block.ls2(block.mlp(block.norm2(x_BND))))
        return moved


class SelectingBlock(SparseBlock):
    """Keeps the patches that the class token attends to most, best first (Liang et al. 2022, EViT).

    Args:
        block: the timm block to take over.
        keep_rate: share of the patches that stay, rounded up; 1 leaves the block as it was.
        fuse: sum the others, weighted by their attention, into one more token; else they are discarded.
        prefix: leading tokens that always stay (class token first, registers).
    """

    def __init__(self, block: nn.Module, keep_rate: float, fuse: bool, prefix: int) -> None:
        super().__init__(block)
        self.keep_rate, self.fuse, self.prefix = keep_rate, fuse, prefix

    def step(self, x_BND: Tensor, sizes_BN: Tensor | None = None) -> Step:
        """(B, N, D) tokens to (B, prefix + kept (+ 1), D)."""
        x_BND, query, keys = self.attend(x_BND)
        patches, chosen = x_BND.shape[1] - self.prefix, None
        kept = kept_tokens(patches, self.keep_rate)
        if kept < patches:
            scores = class_scores(query[:, :, 0], keys, query.shape[-1] ** -0.5, skip=self.prefix)
            x_BND, chosen = select_tokens(x_BND, scores, kept, self.fuse)
        return Step(self.transform(x_BND), None, chosen)


class MergingBlock(SparseBlock):
    """Merges the most similar pairs of tokens, compared by their keys' mean over heads (Bolya et al. 2023, ToMe).

    Args:
        block: the timm block to take over.
        merges: tokens to merge, or how many of a number that are not protected; never more than half of these.
        prefix: leading tokens that never merge.
        proportional: attention counts a token as many times as the tokens it stands for.
        last: gives tokens alone, for what follows the blocks.
    """

    def __init__(
        self, block: nn.Module, merges: int | Callable[[int], int], prefix: int, proportional: bool, last: bool = False
    ) -> None:
        super().__init__(block)
        self.merges, self.prefix, self.proportional, self.last = merges, prefix, proportional, last

    def step(self, x_BND: Tensor, sizes_BN: Tensor | None = None) -> Step:
        """(B, N, D) tokens, with their sizes once any have merged, to (B, N - merged, D) with sizes."""
        x_BND, _, keys = self.attend(x_BND, sizes_BN if self.proportional else None)
        free, matching = x_BND.shape[1] - self.prefix, None
        r = min(self.merges if isinstance(self.merges, int) else self.merges(free), free // 2)
        if r > 0:
            if sizes_BN is None:
                wide = torch.promote_types(x_BND.dtype, torch.float32)
                sizes_BN = x_BND.new_ones(x_BND.shape[:2], dtype=wide)
            matching = bipartite_match(keys.mean(1), r, self.prefix)
            x_BND, sizes_BN = merge_tokens(x_BND, sizes_BN, matching)
        return Step(self.transform(x_BND), sizes_BN, matching)

    def forward(self, state: State) -> State:
        """See `step`."""
        x_BND, sizes_BN, _ = self.step(*state) if isinstance(state, tuple) else self.step(state)
        return x_BND if self.last or sizes_BN is None else (x_BND, sizes_BN)


def sparse_block(block: nn.Module, reduction: Reduction, prefix: int) -> SparseBlock:
    """The block with the rule of `reduction`, which drops nothing where there is none."""
    match reduction.rule:
        case "evit":
            return SelectingBlock(block, reduction.keep_rate, reduction.fuse, prefix)
        case "tome":
            return MergingBlock(block, reduction.merges, prefix, reduction.proportional)
    return SparseBlock(block)
