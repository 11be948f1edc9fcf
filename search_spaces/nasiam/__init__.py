"""NASiam: searched projector and predictor heads of siamese self-supervised learning."""

from naslab.search_spaces.nasiam.space import NASiam
from naslab.search_spaces.nasiam.task import SelfSupervised


class Space(NASiam):
    """The space and the task that trains what it builds."""

    Task = SelfSupervised


__all__ = ["Space"]
