"""Video: clips with captions and questions or with labels, generated from the embedded images or read from files."""

from naslab.search_spaces.data.video.labelled import load_clips
from naslab.search_spaces.data.video.load import load_video_text
from naslab.search_spaces.data.video.options import ClipOptions, VideoTextOptions
from naslab.search_spaces.data.video.sets import Question, VideoText, VideoTextData
from naslab.search_spaces.data.video.views import ClipAugmentation

__all__ = [
    "ClipAugmentation",
    "ClipOptions",
    "Question",
    "VideoText",
    "VideoTextData",
    "VideoTextOptions",
    "load_clips",
    "load_video_text",
]
