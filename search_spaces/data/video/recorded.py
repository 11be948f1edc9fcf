"""Clips from video files: found, probed, left out and named where broken, decoded when asked for."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.data.folders import walk
from naslab.search_spaces.data.sifting import THREADS, sift
from naslab.search_spaces.data.video.annotations import SPLITS, Described, read_annotations
from naslab.search_spaces.data.video.decode import Decoder, Unreadable, choose_decoder, decode, probe
from naslab.search_spaces.data.video.options import VideoTextOptions
from naslab.search_spaces.data.video.sets import Question, Texts, VideoText

VIDEO_SUFFIXES = frozenset(
    {
        ".264", ".265", ".3g2", ".3gp", ".3gp2", ".3gpp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4p",
        ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v",
        ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv",
        ".mts", ".mxf", ".nut", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".ts", ".vob", ".vro",
        ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
    }
)  # fmt: skip
HELD_OUT = 10
"""Where no validation or no test videos are set apart, one of so many training videos is held out."""


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
    """Video files of a folder and all below it, by path, by name and by name without container."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name: dict[str, Path] = {}
        for path in sorted((place / name for place, names in walk(root) for name in names), reverse=True):
            self.by_name[_composed(path.name)] = path
            if path.suffix.lower() in VIDEO_SUFFIXES or path.suffix in ("", "."):
                self.by_name[_bare(path.name)] = path

    def find(self, video: str) -> Path | None:
        """The file of a video, whatever its container: archives are often re-encoded under the same name."""
        if (exact := self.root / video).is_file():
            return exact
        name = _composed(Path(video).name)
        return self.by_name.get(name) or self.by_name.get(_bare(name))


def _bare(name: str) -> str:
    """A video's name without its containers and without dots at its end, which some archives add or take away."""
    name = _composed(name).rstrip(".")
    while (path := Path(name)).suffix.lower() in VIDEO_SUFFIXES:
        name = path.stem.rstrip(".")
    return name


def _composed(name: str) -> str:
    """A name in Unicode's composed form: some file systems and archives take accents off their letters."""
    return unicodedata.normalize("NFC", name)


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
        def look(described: Described) -> tuple[str, str]:
            return described.video, _trouble(described, self.files, self.decoder)

        usable, skipped = sift(videos, look, self._where(split), "videos", limit)
        return [(path, described) for described in usable if (path := self.files.find(described.video))], skipped

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


def trouble_with(path: Path, decoder: Decoder) -> str:
    """Why no frame of the file can be decoded; empty where one can."""
    try:
        probe(path, decoder)
    except Unreadable as error:
        return str(error)
    return ""


def _trouble(described: Described, files: _Files, decoder: Decoder) -> str:
    """What stands against using a video; empty if nothing does."""
    described.captions = [text.strip() for text in described.captions if text.strip()]
    path = files.find(described.video)
    if path is None:
        return "no such file"
    return trouble_with(path, decoder) if described.captions else "no caption"


def _texts(videos: Sequence[Described]) -> Texts:
    further = [(text, clip) for clip, described in enumerate(videos) for text in described.captions[1:]]
    questions: list[Question] = [replace(q, clip=clip) for clip, d in enumerate(videos) for q in d.questions]
    return Texts(
        captions=[*(described.captions[0] for described in videos), *(text for text, _ in further)],
        caption_clips=torch.tensor([*range(len(videos)), *(clip for _, clip in further)], dtype=torch.long),
        questions=questions,
    )
