"""Token reduction: an image classifier swept over keep rates (EViT) and merges (ToMe)."""

from naslab.search_spaces.token_reduction.space import TokenReduction
from naslab.search_spaces.token_reduction.task import Classification


class Space(TokenReduction):
    """The space and the task that trains what it builds."""

    Task = Classification


__all__ = ["Space"]
