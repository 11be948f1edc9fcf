"""NASiam: searched projector and predictor heads of siamese self-supervised learning."""

from naslab.search_spaces.nasiam.space import NASiam as Space

__all__ = ["Space"]
