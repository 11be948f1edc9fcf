"""Whole-word masking of Chinese and English text for masked language models."""

from naslab.search_spaces.whole_word.space import WholeWord
from naslab.search_spaces.whole_word.task import MaskedPretraining


class Space(WholeWord):
    """The space and the task that trains what it builds."""

    Task = MaskedPretraining


__all__ = ["Space"]
