"""DySI: training a decoder on its own predictions, as many as its accuracy bears, in imitation of its expert self."""

from naslab.search_spaces.dysi.space import DySI
from naslab.search_spaces.dysi.task import Translation


class Space(DySI):
    """The space and the task that trains what it builds."""

    Task = Translation


__all__ = ["Space"]
