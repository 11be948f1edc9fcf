"""Fewer tokens inside any timm vision transformer: selection by attention (EViT) or merging (ToMe)."""

from naslab.search_spaces.sparsification.blocks import MergingBlock, SelectingBlock
from naslab.search_spaces.sparsification.schedules import anneal, merge_schedule
from naslab.search_spaces.sparsification.sparsify import set_keep_rate, sparsify

__all__ = ["MergingBlock", "SelectingBlock", "anneal", "merge_schedule", "set_keep_rate", "sparsify"]
