"""From the options in a study file to three sets of clips with texts, and what a model needs to know about them."""

from __future__ import annotations

import torch

from naslab.search_spaces.data.video.generated import generate
from naslab.search_spaces.data.video.options import VideoTextOptions
from naslab.search_spaces.data.video.recorded import recorded
from naslab.search_spaces.data.video.sets import VideoText, VideoTextData

STATISTICS_SAMPLE = {True: 256, False: 64}
"""Clips from which channel means and deviations are taken, generated or not: video files take long to decode."""


def load_video_text(options: VideoTextOptions) -> VideoTextData:
    """Read or generate the clips and split them.

    Raises:
        InputError: missing or broken files, or fewer clips than asked for.
    """
    splits = generate(options) if options.name == "generated" else recorded(options)
    train = splits["train"]
    mean, std = _statistics(train, STATISTICS_SAMPLE[options.name == "generated"])
    questions = train.questions
    return VideoTextData(
        name=options.name,
        channels=len(mean),
        image_size=options.image_size,
        train=train,
        validation=splits["validation"],
        test=splits["test"],
        answers=tuple(sorted({q.answer for q in questions if not q.options})),
        mean=mean,
        std=std,
        words=(*train.captions, *(q.text for q in questions)),
    )


def _statistics(clips: VideoText, sample_size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    sample = torch.linspace(0, len(clips) - 1, min(sample_size, len(clips))).long()
    pixels = clips.fetch(sample, 1).float().transpose(0, 2).flatten(1) / 255
    return tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).clamp(min=1e-3).tolist())
