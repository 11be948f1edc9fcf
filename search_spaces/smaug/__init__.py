"""SMAUG: sparse masked autoencoder for video-language pre-training."""

from naslab.search_spaces.smaug.space import SMAUG
from naslab.search_spaces.smaug.task import VideoLanguage


class Space(SMAUG):
    """The space and the task that trains what it builds."""

    Task = VideoLanguage


__all__ = ["Space"]
