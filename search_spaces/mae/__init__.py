"""MAE: masked autoencoders of images and video, swept over masking ratio, mask, decoder and target."""

from naslab.search_spaces.mae.space import MAE as Space

__all__ = ["Space"]
