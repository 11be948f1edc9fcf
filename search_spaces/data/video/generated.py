"""Captioned video made from the embedded Fashion-MNIST images: real garments move, appear, leave and pass in clutter.

Clips are stored as tracks and drawn when fetched, a whole batch at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from naslab.search_spaces.data import files
from naslab.search_spaces.data.images import ImageSet
from naslab.search_spaces.data.video.options import Event, VideoOptions, VideoTextOptions
from naslab.search_spaces.data.video.scenes import OBJECTS, PATTERNS, Scene, Tracks, make_scenes
from naslab.search_spaces.data.video.sets import Texts, VideoText
from naslab.search_spaces.data.video.wording import ask, write_captions

OBJECT_CLASSES = {
    "bag": 8, "boot": 9, "trouser": 1, "dress": 3, "sandal": 5,
    "pullover": 2, "sneaker": 7, "tee": 0, "coat": 4, "shirt": 6,
}  # fmt: skip
"""Names of objects and their Fashion-MNIST labels, those that are easiest to tell apart first."""
DEFAULT_CLIPS = {"train": 4096, "validation": 512, "test": 512}
VALIDATION_SHARE = 5
"""One of so many training images is shown in validation clips alone."""
OPAQUE = 24
"""Least value of an object's pixel that hides what is behind it."""
SCRAPS = 3
"""Small pieces of garments in the background of each clip."""
PATTERN_VALUE, SCRAP_VALUE, NOISE_VALUE = 120, 160, 48
"""Highest values of the pattern, the scraps and the noise at full clutter."""
NOISES = 32


@dataclass(frozen=True, eq=False)
class Pictures:
    """What the clips of one split are drawn from.

    Attributes:
        objects_MHW: images of all classes, uint8, sorted by class.
        firsts_C, counts_C: the first image of each class, and how many it has.
        patterns_PSS: uint8.
        scraps_Mhw: pieces of the same images, uint8, already as dark as clutter is.
        noises_QSS: uint8.
    """

    objects_MHW: Tensor
    firsts_C: Tensor
    counts_C: Tensor
    patterns_PSS: Tensor
    scraps_Mhw: Tensor
    noises_QSS: Tensor


@dataclass(frozen=True, eq=False)
class GeneratedVideo(VideoText):
    """Clips of one grey channel, drawn when fetched."""

    pictures: Pictures
    tracks: Tracks
    texts: Texts
    frames: int

    def __len__(self) -> int:
        """See VideoText."""
        return len(self.tracks.classes_NK)

    def fetch_at(self, indices: Tensor, times_BT: Tensor) -> Tensor:
        """See VideoText.fetch_at."""
        return draw(self.pictures, self.tracks.take(indices), times_BT, self.frames).unsqueeze(2)

    def take(self, indices: Tensor) -> GeneratedVideo:
        """See VideoText.take."""
        return GeneratedVideo(self.pictures, self.tracks.take(indices), self.texts.take(indices), self.frames)


@dataclass(frozen=True)
class Staged:
    """What happens in the clips of one split and what they are drawn from; `random` goes on where staging ended."""

    split: str
    pictures: Pictures
    scenes: list[Scene]
    tracks: Tracks
    random: np.random.Generator


def object_names(options: VideoOptions) -> list[str]:
    """Names of the kinds of object, in the order of a scene's classes."""
    return list(OBJECT_CLASSES)[: options.classes]


def stage(options: VideoOptions, events: Sequence[Event]) -> Iterator[Staged]:
    """The clips of `train`, `validation` and `test`; no image is in two of them."""
    embedded = files.read_embedded()
    for number, (split, default) in enumerate(DEFAULT_CLIPS.items()):
        random = np.random.default_rng([options.seed, number])
        pictures = _pictures(embedded.test if split == "test" else embedded.train, split, options, random)
        clips = getattr(options, split) or default
        scenes, tracks = make_scenes(clips, events, options.classes, options.objects, options.frames, random)
        yield Staged(split, pictures, scenes, tracks, random)


def generate(options: VideoTextOptions) -> dict[str, VideoText]:
    """The three splits with their texts."""
    names = object_names(options)
    splits: dict[str, VideoText] = {}
    for staged in stage(options, options.events):
        captions, owners = write_captions(staged.scenes, names, options.captions_per_clip, staged.random)
        questions = ask(staged.scenes, names, options.questions, staged.random)
        texts = Texts(captions, torch.tensor(owners), questions)
        splits[staged.split] = GeneratedVideo(staged.pictures, staged.tracks, texts, options.frames)
    return splits


def draw(pictures: Pictures, tracks: Tracks, times_BT: Tensor, frames: int) -> Tensor:
    """The clips at the given frames, uint8 (B, T, S, S)."""
    times = times_BT.shape[1]
    side = pictures.patterns_PSS.shape[-1]
    canvas_BTSS = _backgrounds(pictures, tracks, side)[:, None].expand(-1, times, -1, -1).contiguous()
    since_BT = (times_BT - frames // 2).float() / (frames - 1)
    for k in range(OBJECTS):
        classes_B = tracks.classes_NK[:, k]
        before_B2, after_B2 = tracks.before_NK2[:, k].float(), tracks.after_NK2[:, k].float()
        way_BT2 = torch.where((since_BT < 0)[..., None], before_B2[:, None], after_B2[:, None]) * since_BT[..., None]
        place_BT2 = (tracks.middle_NK2[:, None, k].float() + way_BT2) * side
        shown_BT = (times_BT >= tracks.shown_NK2[:, k, :1]) & (times_BT < tracks.shown_NK2[:, k, 1:])
        shown_BT = shown_BT & (classes_B >= 0)[:, None]
        c = classes_B.clamp(min=0)
        which_B = pictures.firsts_C[c] + (tracks.draws_NK[:, k] * pictures.counts_C[c]).long()
        _paste(canvas_BTSS, pictures.objects_MHW[which_B], place_BT2.round().long(), shown_BT)
    noise_BT = (tracks.seed_N[:, None] + times_BT) % len(pictures.noises_QSS)
    return canvas_BTSS + pictures.noises_QSS[noise_BT]


def _paste(canvas_BTSS: Tensor, pictures_Bhw: Tensor, place_BT2: Tensor, shown_BT: Tensor) -> None:
    """Put each clip's picture on its frames with its corner at `place`, over joined edges; dark pixels are clear."""
    batch, times, side, _ = canvas_BTSS.shape
    height = pictures_Bhw.shape[-1]
    offset = torch.arange(height)
    rows_BTh = (place_BT2[..., :1] + offset) % side
    columns_BTw = (place_BT2[..., 1:] + offset) % side
    flat = (rows_BTh[..., :, None] * side + columns_BTw[..., None, :]).flatten(2)
    pixels = pictures_Bhw.flatten(1)[:, None].expand(batch, times, height * height)
    canvas = canvas_BTSS.view(batch, times, side * side)
    visible = (pixels >= OPAQUE) & shown_BT[..., None]
    canvas.scatter_(2, flat, torch.where(visible, pixels, canvas.gather(2, flat)))


def _backgrounds(pictures: Pictures, tracks: Tracks, side: int) -> Tensor:
    """The shifted pattern of each clip with its scraps, uint8 (B, S, S)."""
    shift_B2 = (tracks.shift_N2 * side).long()
    steps = torch.arange(side)
    rows_BS, columns_BS = (shift_B2[:, :1] + steps) % side, (shift_B2[:, 1:] + steps) % side
    ground_BSS = pictures.patterns_PSS[tracks.pattern_N[:, None, None], rows_BS[:, :, None], columns_BS[:, None, :]]
    shown = torch.ones(len(ground_BSS), 1, dtype=torch.bool)
    for number in range(SCRAPS):
        # Three small numbers from one seed, by remainders of different primes.
        seed_B = tracks.seed_N // (number + 1)
        place_B2 = torch.stack([seed_B % 9973, seed_B % 7919], 1) % side
        _paste(ground_BSS[:, None], pictures.scraps_Mhw[seed_B % len(pictures.scraps_Mhw)], place_B2[:, None], shown)
    return ground_BSS


def _pictures(images: ImageSet, split: str, options: VideoOptions, random: np.random.Generator) -> Pictures:
    side = options.image_size
    small = max(4, round(options.object_size * side))
    classes = [OBJECT_CLASSES[name] for name in object_names(options)]
    parts = [_of_split((images.labels == label).nonzero().flatten(), split) for label in classes]
    counts = torch.tensor([len(part) for part in parts])
    chosen = images.fetch(torch.cat(parts)).float()
    objects = F.interpolate(chosen, size=(small, small), mode="area" if small < 28 else "bilinear")[:, 0]
    # The brightest pixel of every garment is white: dark ones would be lost in the clutter.
    objects = objects / objects.amax((1, 2), keepdim=True).clamp(min=1) * 200
    piece = max(2, small // 3)
    scraps = objects[:, small // 3 : small // 3 + piece, small // 3 : small // 3 + piece]
    return Pictures(
        objects_MHW=objects.round().to(torch.uint8),
        firsts_C=counts.cumsum(0) - counts,
        counts_C=counts,
        patterns_PSS=(_patterns(side) * PATTERN_VALUE * options.clutter).to(torch.uint8),
        scraps_Mhw=(scraps / 200 * SCRAP_VALUE * options.clutter).to(torch.uint8),
        noises_QSS=torch.from_numpy(
            random.integers(0, 1 + math.floor(NOISE_VALUE * options.clutter), (NOISES, side, side), dtype=np.uint8)
        ),
    )


def _of_split(indices: Tensor, split: str) -> Tensor:
    held_out = torch.arange(len(indices)) % VALIDATION_SHARE == 0
    return {"train": indices[~held_out], "validation": indices[held_out], "test": indices}[split]


def _patterns(side: int) -> Tensor:
    """One picture of each of PATTERNS, values 0 to 1, which goes on over joined edges."""
    period = side // max(1, round(side / 8))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase_y, phase_x = y % period, x % period
    half = period // 2
    pictures = {
        "plain cloth": torch.full((side, side), 0.3),
        "stripes": ((y + x) % period < half).float(),
        "dots": ((phase_y < half) & (phase_x < half)).float(),
        "checks": ((phase_y < half) ^ (phase_x < half)).float() * 0.7,
    }
    return torch.stack([pictures[name] for name in PATTERNS])
