"""Clips from video files: found, probed, left out and named where broken, decoded when asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from efficiency.errors import InputError
from search_spaces.data.video.annotations import SPLITS, Described, annotations
from search_spaces.data.video.decode import Decoder, Unreadable, choose_decoder, decode, probe
from search_spaces.data.video.options import VideoTextOptions
from search_spaces.data.video.sets import Question, Texts, VideoText

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".gif", ".flv", ".3gp", ".wmv"}
)
NAMED = 5
"""How many of the videos left out a warning names; `skipped` names all."""
HELD_OUT = 10
"""Where an annotation knows no validation or no test videos, one of so many training videos is held out."""


@dataclass
class Cache:
    """Decoded clips by path, kept until `limit_bytes` are used."""

    limit_bytes: int
    clips: dict[Path, Tensor] = field(default_factory=dict)
    used_bytes: int = 0

    def keep(self, path: Path, clip: Tensor) -> None:
        """Remember the clip if there is room."""
        if path not in self.clips and self.used_bytes + clip.numel() <= self.limit_bytes:
            self.clips[path] = clip
            self.used_bytes += clip.numel()


@dataclass(frozen=True, eq=False)
class RecordedVideo(VideoText):
    """Clips of three channels: `frames` frames at equal distances of each file."""

    paths: Sequence[Path]
    texts: Texts
    frames: int
    side: int
    decoder: Decoder
    cache: Cache
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """See VideoText."""
        return len(self.paths)

    def fetch_at(self, indices: Tensor, times_BT: Tensor) -> Tensor:
        """See VideoText.fetch_at. A file damaged in the middle gives what can be decoded, with a warning.

        Raises:
            InputError: a file that was readable before no longer is.
        """
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            clips = list(pool.map(self._clip, [self.paths[i] for i in indices.tolist()]))
        return torch.stack([clip[times] for clip, times in zip(clips, times_BT, strict=True)])

    def _clip(self, path: Path) -> Tensor:
        if (kept := self.cache.clips.get(path)) is not None:
            return kept
        try:
            clip, decoded, wanted = decode(path, self.frames, self.side, self.decoder)
        except Unreadable as error:
            raise InputError(f"{path}: was readable before, now is not ({error}); mend or remove the file") from None
        if decoded < wanted:
            warnings.warn(f"{path}: damaged, {decoded} of {wanted} frames decoded, the last repeated", stacklevel=2)
        self.cache.keep(path, clip)
        return clip

    def take(self, indices: Tensor) -> RecordedVideo:
        """See VideoText.take."""
        paths = [self.paths[i] for i in indices.tolist()]
        return replace(self, paths=paths, texts=self.texts.take(indices))


def recorded(options: VideoTextOptions) -> dict[str, VideoText]:
    """The three splits of a data set on disk.

    Raises:
        InputError: a missing root or annotation, no decoder, a split without readable videos or of fewer than asked for.
    """
    if options.root is None:
        raise InputError(f"task.data.root: missing; {options.name} needs the folder of its annotation and videos")
    if not options.root.is_dir():
        raise InputError(f"{options.root}: no such folder; task.data.root names the folder of annotation and videos")
    decoder = choose_decoder(options.decoder)
    found = _three_splits(annotations(options, options.root), options)
    files = _Files(options.root)
    return {split: _split(split, found[split], files, options, decoder) for split in SPLITS}


class _Files:
    """Video files of a folder and all below it, by path, by name and by name without suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, Path] = {}
        for path in sorted(root.rglob("*"), reverse=True):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                self.by_name[path.stem] = self.by_name[path.name] = path

    def find(self, video: str) -> Path | None:
        """The file of a video, whatever its container: archives are often re-encoded under the same name."""
        if (exact := self.root / video).is_file():
            return exact
        name = Path(video).name
        return self.by_name.get(name) or self.by_name.get(
            Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
        )


def _three_splits(found: dict[str, list[Described]], options: VideoTextOptions) -> dict[str, list[Described]]:
    """All three splits, in the order in which clips are taken; missing ones are held out of the training videos."""
    generator = torch.Generator().manual_seed(options.seed)
    train = found.get("train", [])
    train = [train[i] for i in torch.randperm(len(train), generator=generator).tolist()]
    splits = dict(found)
    for split, wanted in (("test", options.test), ("validation", options.validation)):
        if not splits.get(split):
            number = wanted or max(1, len(train) // HELD_OUT)
            splits[split], train = train[:number], train[number:]
    return {**splits, "train": train}


def _split(
    split: str, videos: list[Described], files: _Files, options: VideoTextOptions, decoder: Decoder
) -> RecordedVideo:
    usable: list[tuple[Path, Described]] = []
    skipped: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for described, path, trouble in pool.map(lambda v: _look(v, files, decoder), videos):
            if path is None or trouble:
                skipped.append(f"{described.video} ({trouble})")
            else:
                usable.append((path, described))
    where = f"{options.name}, {split} ({options.root})"
    if skipped:
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        names = ", ".join(skipped[:NAMED])
        warnings.warn(f"{where}: {len(skipped)} of {len(videos)} videos left out: {names}{more}", stacklevel=4)
    wanted = getattr(options, split)
    if not usable:
        first = f"; the first: {skipped[0]}" if skipped else ""
        raise InputError(f"{where}: none of {len(videos)} videos can be used{first}")
    if wanted is not None and wanted > len(usable):
        raise InputError(f"task.data.{split}: {options.name} has {len(usable)} usable {split} videos, not {wanted}")
    usable = usable[:wanted]
    return RecordedVideo(
        paths=[path for path, _ in usable],
        texts=_texts([described for _, described in usable]),
        frames=options.frames,
        side=options.image_size,
        decoder=decoder,
        cache=Cache(options.cache_mib << 20),
        skipped=tuple(skipped),
    )


def _look(described: Described, files: _Files, decoder: Decoder) -> tuple[Described, Path | None, str]:
    """The video, its file, and what stands against using it."""
    described.captions = [text.strip() for text in described.captions if text.strip()]
    path = files.find(described.video)
    if path is None:
        return described, None, "no such file"
    if not described.captions:
        return described, path, "no caption"
    try:
        probe(path, decoder)
    except Unreadable as error:
        return described, path, str(error)
    return described, path, ""


def _texts(videos: Sequence[Described]) -> Texts:
    further = [(text, clip) for clip, described in enumerate(videos) for text in described.captions[1:]]
    questions: list[Question] = [replace(q, clip=clip) for clip, d in enumerate(videos) for q in d.questions]
    return Texts(
        captions=[*(described.captions[0] for described in videos), *(text for text, _ in further)],
        caption_clips=torch.tensor([*range(len(videos)), *(clip for _, clip in further)], dtype=torch.long),
        questions=questions,
    )
