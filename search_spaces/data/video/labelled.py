"""Labelled clips: generated ones whose label is a direction or an object, or videos in class folders.

They are an ImageData of clips (S, C, H, W) of S stored frames, so that what is written for images takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.datasets import ImageData, balanced_order, channel_statistics
from naslab.search_spaces.data.folders import Labelled, class_folders
from naslab.search_spaces.data.images import ImageSet, MemoryImages
from naslab.search_spaces.data.sifting import sift
from naslab.search_spaces.data.video.decode import Decoder, choose_decoder
from naslab.search_spaces.data.video.generated import Staged, draw, object_names, stage
from naslab.search_spaces.data.video.load import STATISTICS_SAMPLE
from naslab.search_spaces.data.video.options import ClipOptions
from naslab.search_spaces.data.video.recorded import HELD_OUT, VIDEO_SUFFIXES, Cache, RecordedVideo, trouble_with
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
    """Videos in class folders; without a folder for it, validation is held out of training, evenly over the classes."""
    found = class_folders(options.root, "videos", VIDEO_SUFFIXES, options.seed)
    reading = _Reading(options, found.classes, choose_decoder(options.decoder))
    if found.validation is not None:
        usable = reading.exactly("train", found.train, options.train)
        validation: LabelledClips = reading.exactly("validation", found.validation, options.validation)
        rest = torch.arange(len(usable))
    else:
        sizes = (options.train, options.validation)
        usable = reading.usable("train", found.train, None if None in sizes else sum(n or 0 for n in sizes))
        held_out = options.validation or max(1, len(usable) // HELD_OUT)
        validation = usable.take(torch.arange(min(held_out, len(usable))))
        rest = _left(options, len(usable), held_out)
    missing = sorted(set(range(len(found.classes))) - set(usable.labels[rest].tolist()))
    if missing:
        raise InputError(f"{options.root}: class {found.classes[missing[0]]} has no usable training video")
    shuffled = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(options.seed))]
    splits: dict[str, ImageSet] = {
        "train": usable.take(shuffled),
        "validation": validation,
        "test": reading.exactly("test", found.test, options.test),
    }
    return splits, found.classes


def _left(options: ClipOptions, usable: int, held_out: int) -> Tensor:
    """Numbers of the training videos that are left when the first are held out."""
    if held_out >= usable:
        raise InputError(
            f"task.dataset.validation: {held_out} of {usable} usable training videos leave none to train on"
        )
    rest = torch.arange(held_out, usable)[: options.train]
    if options.train is not None and len(rest) < options.train:
        raise InputError(
            f"task.dataset.train: {options.root} has {len(rest)} usable training videos beside {held_out} for "
            f"validation, not {options.train}"
        )
    return rest


@dataclass(frozen=True)
class _Reading:
    """One reading of class folders."""

    options: ClipOptions
    classes: tuple[str, ...]
    decoder: Decoder

    def exactly(self, split: str, files: Labelled, wanted: int | None) -> LabelledClips:
        """The first `wanted` videos that can be decoded, or all; fewer than wanted are refused."""
        usable = self.usable(split, files, wanted)
        if wanted is not None and len(usable) < wanted:
            raise InputError(
                f"task.dataset.{split}: {self.options.root} has {len(usable)} usable {split} videos, not {wanted}"
            )
        return usable

    def usable(self, split: str, files: Labelled, limit: int | None) -> LabelledClips:
        """The first `limit` videos that can be decoded, in an order as even over the classes as it can be."""
        root = self.options.root or Path()

        def look(number: int) -> tuple[str, str]:
            return str(files.paths[number].relative_to(root)), trouble_with(files.paths[number], self.decoder)

        order = balanced_order(files.labels, torch.Generator().manual_seed(self.options.seed)).tolist()
        found, skipped = sift(order, look, f"{self.options.name}, {split} ({root})", "videos", limit)
        chosen = files.take(torch.tensor(found))
        video = RecordedVideo(
            paths=chosen.paths,
            texts=Texts([self.classes[label] for label in chosen.labels.tolist()], torch.arange(len(found))),
            frames=self.options.frames,
            side=self.options.image_size,
            decoder=self.decoder,
            cache=Cache(self.options.cache_mib << 20),
            skipped=skipped,
        )
        return LabelledClips(video, chosen.labels)
