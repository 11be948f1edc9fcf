"""Fewer tokens inside any timm vision transformer: selection by attention (EViT) or merging (ToMe)."""

from naslab.search_spaces.common.modules.tokens.blocks import MergingBlock, SelectingBlock, SparseBlock
from naslab.search_spaces.common.modules.tokens.reduction import Reduction, layers_at
from naslab.search_spaces.common.modules.tokens.schedules import anneal, merge_schedule
from naslab.search_spaces.common.modules.tokens.sparsify import set_keep_rate, sparsify

__all__ = [
    "MergingBlock",
    "Reduction",
    "SelectingBlock",
    "SparseBlock",
    "anneal",
    "layers_at",
    "merge_schedule",
    "set_keep_rate",
    "sparsify",
]
