"""AltUp: a residual stream K times as wide as the layers that compute on it."""

from naslab.search_spaces.altup.space import AltUp as Space

__all__ = ["Space"]
