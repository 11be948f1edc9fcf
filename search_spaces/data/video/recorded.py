"""Clips from video files: found, probed, left out and named where broken, decoded when asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from naslab.efficiency.errors import InputError
from naslab.search_spaces.data.video.annotations import SPLITS, Described, read_annotations
from naslab.search_spaces.data.video.decode import Decoder, Unreadable, choose_decoder, decode, probe
from naslab.search_spaces.data.video.options import VideoTextOptions
from naslab.search_spaces.data.video.sets import Question, Texts, VideoText

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".gif", ".flv", ".3gp", ".wmv"}
)
NAMED = 5
"""How many of the videos left out a warning names; `skipped` names all."""
BLOCK = 64
"""Videos that are probed before it is asked whether they suffice."""
THREADS = min(8, os.cpu_count() or 1)
HELD_OUT = 10
"""Where no validation or no test videos are set apart, one of so many training videos is held out."""

V = TypeVar("V")


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
        with ThreadPoolExecutor(THREADS) as pool:
            clips = list(pool.map(self._clip, [self.paths[i] for i in indices.tolist()]))
        for damage in {damage for _, damage in clips if damage}:
            warnings.warn(damage, stacklevel=3)
        return torch.stack([clip[times] for (clip, _), times in zip(clips, times_BT, strict=True)])

    def _clip(self, path: Path) -> tuple[Tensor, str]:
        """All frames of the clip, and what is to be said about its file when it is first read."""
        if (kept := self.cache.clips.get(path)) is not None:
            return kept, ""
        try:
            clip, decoded, wanted = decode(path, self.frames, self.side, self.decoder)
        except Unreadable as error:
            raise InputError(f"{path}: was readable before, now is not ({error}); mend or remove the file") from None
        self.cache.keep(path, clip)
        damage = f"{path}: damaged, {decoded} of {wanted} frames decoded, the last repeated"
        return clip, damage if decoded < wanted else ""

    def take(self, indices: Tensor) -> RecordedVideo:
        """See VideoText.take."""
        paths = [self.paths[i] for i in indices.tolist()]
        return replace(self, paths=paths, texts=self.texts.take(indices))


def recorded(options: VideoTextOptions) -> dict[str, VideoText]:
    """The three splits of a data set on disk.

    Raises:
        InputError: a missing root or annotation, no decoder, a split with no readable video or fewer than asked for.
    """
    if options.root is None:
        raise InputError(f"task.dataset.root: missing; {options.name} needs the folder of its annotation and videos")
    if not options.root.is_dir():
        raise InputError(f"{options.root}: no such folder; task.dataset.root names that of annotation and videos")
    decoder = choose_decoder(options.decoder)
    found = read_annotations(options, options.root)
    files = _Files(options.root)
    return _Reading(options, files, decoder).splits(found)


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


@dataclass(frozen=True)
class _Reading:
    """One reading of a data set: what is usable of each split, and which videos stand in for a missing one."""

    options: VideoTextOptions
    files: _Files
    decoder: Decoder

    def splits(self, found: dict[str, list[Described]]) -> dict[str, VideoText]:
        """The three splits; a missing one is held out of the usable training videos."""
        generator = torch.Generator().manual_seed(self.options.seed)
        train = found.get("train", [])
        train = [train[i] for i in torch.randperm(len(train), generator=generator).tolist()]
        missing = [split for split in ("test", "validation") if not found.get(split)]
        wanted = [self._wanted(split) for split in ("train", *missing)]
        usable, skipped = self._usable("train", train, sum(n or 0 for n in wanted) if all(wanted) else None)
        if len(usable) <= len(missing):
            raise InputError(
                f"{self._where('train')}: {len(usable)} usable videos; {' and '.join(missing)} are held out of them, "
                f"so it takes {len(missing) + 1} or more"
            )
        made: dict[str, VideoText] = {}
        number = max(1, len(usable) // HELD_OUT)
        for split in missing:
            size = self._wanted(split) or number
            made[split] = self._made(split, usable[:size], ())
            usable = usable[size:]
        made["train"] = self._made("train", usable, skipped)
        for split in SPLITS:
            if split not in made:
                made[split] = self._made(split, *self._usable(split, found[split], self._wanted(split)))
        return made

    def _wanted(self, split: str) -> int | None:
        number: int | None = getattr(self.options, split)
        return number

    def _where(self, split: str) -> str:
        return f"{self.options.name}, {split} ({self.options.root})"

    def _usable(
        self, split: str, videos: list[Described], limit: int | None
    ) -> tuple[list[tuple[Path, Described]], tuple[str, ...]]:
        return sift(videos, lambda v: _look(v, self.files, self.decoder), self._where(split), limit)

    def _made(self, split: str, usable: list[tuple[Path, Described]], skipped: tuple[str, ...]) -> RecordedVideo:
        wanted = self._wanted(split)
        if wanted is not None and wanted > len(usable):
            name = self.options.name
            raise InputError(f"task.dataset.{split}: {name} has {len(usable)} usable {split} videos, not {wanted}")
        usable = usable[:wanted]
        return RecordedVideo(
            paths=[path for path, _ in usable],
            texts=_texts([described for _, described in usable]),
            frames=self.options.frames,
            side=self.options.image_size,
            decoder=self.decoder,
            cache=Cache(self.options.cache_mib << 20),
            skipped=skipped,
        )


def sift(
    videos: Sequence[V], look: Callable[[V], tuple[str, Path | None, str]], where: str, limit: int | None
) -> tuple[list[tuple[Path, V]], tuple[str, ...]]:
    """The first `limit` videos that can be used, with their files; what was left out before them is warned of.

    Args:
        look: the name of a video, its file, and what stands against using it.
        where: which videos these are, for the warning.

    Raises:
        InputError: none can be used.
    """
    usable: list[tuple[Path, V]] = []
    skipped: list[str] = []
    looked = 0
    with ThreadPoolExecutor(THREADS) as pool:
        while looked < len(videos) and (limit is None or len(usable) < limit):
            part = videos[looked : looked + BLOCK]
            looked += len(part)
            for video, (name, path, trouble) in zip(part, pool.map(look, part), strict=True):
                if path is None or trouble:
                    skipped.append(f"{name} ({trouble})")
                else:
                    usable.append((path, video))
    if skipped:
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        names = ", ".join(skipped[:NAMED])
        warnings.warn(f"{where}: {len(skipped)} of {looked} videos left out: {names}{more}", stacklevel=6)
    if not usable:
        first = f"; the first: {skipped[0]}" if skipped else ""
        raise InputError(f"{where}: none of {len(videos)} videos can be used{first}")
    return usable[:limit], tuple(skipped)


def trouble_with(path: Path, decoder: Decoder) -> str:
    """Why no frame of the file can be decoded; empty where one can."""
    try:
        probe(path, decoder)
    except Unreadable as error:
        return str(error)
    return ""


def _look(described: Described, files: _Files, decoder: Decoder) -> tuple[str, Path | None, str]:
    described.captions = [text.strip() for text in described.captions if text.strip()]
    path = files.find(described.video)
    if path is None:
        return described.video, None, "no such file"
    return described.video, path, trouble_with(path, decoder) if described.captions else "no caption"


def _texts(videos: Sequence[Described]) -> Texts:
    further = [(text, clip) for clip, described in enumerate(videos) for text in described.captions[1:]]
    questions: list[Question] = [replace(q, clip=clip) for clip, d in enumerate(videos) for q in d.questions]
    return Texts(
        captions=[*(described.captions[0] for described in videos), *(text for text, _ in further)],
        caption_clips=torch.tensor([*range(len(videos)), *(clip for _, clip in further)], dtype=torch.long),
        questions=questions,
    )
