"""LM-BFF: prompt-based few-shot fine-tuning of masked language models."""

from naslab.search_spaces.lmbff.space import LMBFF
from naslab.search_spaces.lmbff.task import FewShot


class Space(LMBFF):
    """The space and the task that trains what it builds."""

    Task = FewShot


__all__ = ["Space"]
