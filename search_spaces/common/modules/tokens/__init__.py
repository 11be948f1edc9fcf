"""Fewer tokens inside any timm vision transformer: selection by attention (EViT) or merging (ToMe)."""

from naslab.search_spaces.common.modules.tokens.blocks import MergingBlock, SelectingBlock, SparseBlock, sparse_block
from naslab.search_spaces.common.modules.tokens.places import kept_places, mask_at, nothing_masked
from naslab.search_spaces.common.modules.tokens.reduction import Reduction, layers_at
from naslab.search_spaces.common.modules.tokens.schedules import anneal, merge_schedule
from naslab.search_spaces.common.modules.tokens.sparsify import set_keep_rate, sparsify

__all__ = [
    "MergingBlock",
    "Reduction",
    "SelectingBlock",
    "SparseBlock",
    "anneal",
    "kept_places",
    "layers_at",
    "mask_at",
    "merge_schedule",
    "nothing_masked",
    "set_keep_rate",
    "sparse_block",
    "sparsify",
]
