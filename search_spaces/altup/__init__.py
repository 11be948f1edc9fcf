"""AltUp: a residual stream K times as wide as the layers that compute on it."""

from naslab.search_spaces.altup.space import AltUp
from naslab.search_spaces.altup.task import LanguageModelling


class Space(AltUp):
    """The space and the task that trains what it builds."""

    Task = LanguageModelling


__all__ = ["Space"]
