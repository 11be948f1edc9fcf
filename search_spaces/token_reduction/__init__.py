"""Token reduction: an image classifier swept over keep rates (EViT) and merges (ToMe)."""

from naslab.search_spaces.token_reduction.space import TokenReduction as Space

__all__ = ["Space"]
