"""UniLMv2's pseudo-masked language model: conventional and pseudo masks in one pass."""

from naslab.search_spaces.pmlm.space import PMLM
from naslab.search_spaces.pmlm.task import PseudoMaskedPretraining


class Space(PMLM):
    """The space and the task that trains and fine-tunes what it builds."""

    Task = PseudoMaskedPretraining


__all__ = ["Space"]
