"""Labelled clips: generated ones whose label is a direction or an object, or videos in class folders.

They are an ImageData of clips (S, C, H, W) of S stored frames, so that what is written for images takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from naslab.efficiency.errors import InputError
from naslab.search_spaces.data.datasets import ImageData, balanced_order, channel_statistics
from naslab.search_spaces.data.files import class_folders
from naslab.search_spaces.data.images import ImageSet, MemoryImages
from naslab.search_spaces.data.video.decode import Decoder, choose_decoder
from naslab.search_spaces.data.video.generated import Staged, draw, object_names, stage
from naslab.search_spaces.data.video.load import STATISTICS_SAMPLE
from naslab.search_spaces.data.video.options import ClipOptions
from naslab.search_spaces.data.video.recorded import HELD_OUT, VIDEO_SUFFIXES, Cache, RecordedVideo, sift, trouble_with
from naslab.search_spaces.data.video.scenes import DIRECTIONS
from naslab.search_spaces.data.video.sets import Texts, VideoText

DRAWN_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class LabelledClips(ImageSet):
    """Clips with labels, read when fetched."""

    video: VideoText
    labels: Tensor

    @property
    def frames(self) -> int:
        """See ImageSet.frames."""
        return self.video.frames

    def fetch(self, indices: Tensor) -> Tensor:
        """All stored frames of the chosen clips: uint8 (B, S, C, H, W)."""
        indices = indices.cpu()
        times = torch.arange(self.frames).expand(len(indices), -1)
        return self.video.fetch_at(indices, times)

    def take(self, indices: Tensor) -> LabelledClips:
        """See ImageSet.take; the chosen are distinct."""
        return LabelledClips(self.video.take(indices), self.labels[indices])

    def to(self, device: torch.device) -> LabelledClips:
        """Frames come from the processor."""
        return self


def load_clips(options: ClipOptions) -> ImageData:
    """Read or generate the clips and split them.

    Raises:
        InputError: a missing folder, a class without readable video, or fewer clips than asked for.
    """
    splits, classes = _generated(options) if options.name == "generated" else _folder(options)
    train = splits["train"]
    mean, std = channel_statistics(train, STATISTICS_SAMPLE[options.name == "generated"])
    return ImageData(
        name=options.name,
        classes=classes,
        channels=len(mean),
        image_size=options.image_size,
        train=train,
        validation=splits["validation"],
        test=splits["test"],
        mean=mean,
        std=std,
        sided=options.name == "generated" and options.label == "direction",
    )


def _generated(options: ClipOptions) -> tuple[dict[str, ImageSet], tuple[str, ...]]:
    """Clips in which one object moves and others rest, drawn once and kept in memory."""
    splits: dict[str, ImageSet] = {staged.split: _drawn(staged, options) for staged in stage(options, ("move",))}
    # Twins stand beside one another: whoever takes the first few clips would get few families.
    order = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(options.seed))
    splits["train"] = splits["train"].take(order)
    return splits, DIRECTIONS if options.label == "direction" else tuple(object_names(options))


def _drawn(staged: Staged, options: ClipOptions) -> MemoryImages:
    scenes = staged.scenes
    labels = [scene.directions[0] if options.label == "direction" else scene.objects[0] for scene in scenes]
    clips_NSHW = torch.cat(
        [
            draw(
                staged.pictures,
                staged.tracks.take(part),
                torch.arange(options.frames).expand(len(part), -1),
                options.frames,
            )
            for part in torch.arange(len(scenes)).split(DRAWN_AT_ONCE)
        ]
    )
    return MemoryImages(clips_NSHW.unsqueeze(2), torch.tensor(labels))


def _folder(options: ClipOptions) -> tuple[dict[str, ImageSet], tuple[str, ...]]:
    """Videos in class folders; validation is held out of the training videos, evenly over the classes."""
    train, test, classes = class_folders(options.root, "videos", VIDEO_SUFFIXES, options.seed)
    assert options.root is not None  # class_folders asks for it
    reading = _Reading(options, options.root, classes, choose_decoder(options.decoder))
    wanted = None if None in (options.train, options.validation) else (options.train or 0) + (options.validation or 0)
    usable = reading.usable("train", train, wanted)
    held_out = options.validation or max(1, len(usable.labels) // HELD_OUT)
    if held_out >= len(usable.labels):
        raise InputError(
            f"task.dataset.validation: {held_out} of {len(usable.labels)} usable training videos leave none to train on"
        )
    rest = torch.arange(held_out, len(usable.labels))[: options.train]
    if options.train is not None and len(rest) < options.train:
        raise InputError(
            f"task.dataset.train: {options.root} has {len(rest)} usable training videos beside {held_out} for "
            f"validation, not {options.train}"
        )
    missing = sorted(set(range(len(classes))) - set(usable.labels[rest].tolist()))
    if missing:
        raise InputError(f"{options.root}: class {classes[missing[0]]} has no usable training video")
    shuffled = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(options.seed))]
    tested = reading.usable("test", test, options.test)
    if options.test is not None and len(tested.labels) < options.test:
        raise InputError(
            f"task.dataset.test: {options.root} has {len(tested.labels)} usable test videos, not {options.test}"
        )
    splits: dict[str, ImageSet] = {
        "train": usable.take(shuffled),
        "validation": usable.take(torch.arange(held_out)),
        "test": tested,
    }
    return splits, classes


@dataclass(frozen=True)
class _Reading:
    """One reading of class folders."""

    options: ClipOptions
    root: Path
    classes: tuple[str, ...]
    decoder: Decoder

    def usable(self, split: str, files: tuple[Sequence[Path], Tensor], limit: int | None) -> LabelledClips:
        """The first `limit` videos that can be decoded, in an order as even over the classes as it can be."""
        paths, labels = files
        order = balanced_order(labels, torch.Generator().manual_seed(self.options.seed)).tolist()

        def look(number: int) -> tuple[str, Path, str]:
            return str(paths[number].relative_to(self.root)), paths[number], trouble_with(paths[number], self.decoder)

        found, skipped = sift(order, look, f"{self.options.name}, {split} ({self.root})", limit)
        chosen = labels[torch.tensor([number for _, number in found])]
        video = RecordedVideo(
            paths=[path for path, _ in found],
            texts=Texts([self.classes[label] for label in chosen.tolist()], torch.arange(len(found))),
            frames=self.options.frames,
            side=self.options.image_size,
            decoder=self.decoder,
            cache=Cache(self.options.cache_mib << 20),
            skipped=skipped,
        )
        return LabelledClips(video, chosen)
