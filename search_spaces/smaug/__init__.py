"""SMAUG: sparse masked autoencoder for video-language pre-training."""

from naslab.search_spaces.smaug.space import SMAUGSpace as Space

__all__ = ["Space"]
