"""Video with text: clips with captions and questions, generated from the embedded images or read from files."""

from search_spaces.data.video.load import load_video_text
from search_spaces.data.video.options import VideoTextOptions
from search_spaces.data.video.sets import Question, VideoText, VideoTextData

__all__ = ["Question", "VideoText", "VideoTextData", "VideoTextOptions", "load_video_text"]
