"""VideoText: clips of uint8 frames with captions and questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.splits import Splits


@dataclass(frozen=True)
class Question:
    """One question about a clip. `options` is empty where the answer is open-ended, else it holds `answer`."""

    clip: int
    text: str
    answer: str
    options: tuple[str, ...] = ()
    kind: str = "open"


@dataclass(frozen=True)
class Texts:
    """The texts of a set of clips.

    Attributes:
        captions: the first of every clip, in the clips' order, then further ones.
        caption_clips: the clip of each caption, int64.
    """

    captions: Sequence[str]
    caption_clips: Tensor
    questions: Sequence[Question] = ()

    def take(self, indices: Tensor) -> Texts:
        """The texts of the chosen, distinct clips, numbered anew."""
        place = {old: new for new, old in enumerate(indices.tolist())}
        owners = self.caption_clips.tolist()
        firsts = [self.captions[old] for old in place]
        count = int(self.caption_clips.max()) + 1 if owners else 0
        further = [(self.captions[i], place[owners[i]]) for i in range(count, len(owners)) if owners[i] in place]
        return Texts(
            captions=[*firsts, *(text for text, _ in further)],
            caption_clips=torch.tensor([*range(len(firsts)), *(clip for _, clip in further)], dtype=torch.long),
            questions=[replace(q, clip=place[q.clip]) for q in self.questions if q.clip in place],
        )


class VideoText(ABC):
    """Clips of `frames` frames with their texts; `skipped` names what was left out on reading, and why."""

    texts: Texts
    frames: int
    skipped: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of clips."""

    @property
    def captions(self) -> Sequence[str]:
        """Captions: the first of every clip in the clips' order, then further ones."""
        return self.texts.captions

    @property
    def caption_clips(self) -> Tensor:
        """The clip of each caption, int64."""
        return self.texts.caption_clips

    @property
    def questions(self) -> Sequence[Question]:
        """Questions about the clips."""
        return self.texts.questions

    def fetch(self, indices: Tensor, frames: int, generator: torch.Generator | None = None) -> Tensor:
        """Frames of the chosen clips, uint8 (B, T, C, H, W), in the order of time.

        Without generator they stand in the middle of `frames` equal segments, else anywhere in their segments.

        Raises:
            InputError: more frames asked for than a clip has.
        """
        return self.fetch_at(indices, frame_times(self.frames, frames, len(indices), generator))

    @abstractmethod
    def fetch_at(self, indices: Tensor, times_BT: Tensor) -> Tensor:
        """The frames at the given places of each clip, 0 to `frames` - 1: uint8 (B, T, C, H, W)."""

    @abstractmethod
    def take(self, indices: Tensor) -> VideoText:
        """The subset of the chosen, distinct clips, in that order, with their texts."""


@dataclass(frozen=True)
class VideoTextData(Splits[VideoText]):
    """Clips with texts, ready for use.

    Attributes:
        answers: the answers of the open-ended training questions, sorted.
        mean, std: per channel, of training frames scaled to [0, 1].
        words: training captions and questions, from which a tokenizer is made.
    """

    name: str
    channels: int
    image_size: int
    answers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    words: tuple[str, ...]


def middle_frames(stored: int, frames: int) -> tuple[int, ...]:
    """The frames in the middles of `frames` equal segments; see frame_times."""
    _check_frames(stored, frames)
    return tuple(int((number + 0.5) * stored / frames) for number in range(frames))


def _check_frames(stored: int, frames: int) -> None:
    if not 1 <= frames <= stored:
        raise InputError(f"frames: {frames} asked for, but a clip has {stored}; allowed are 1 to {stored}")


def frame_times(stored: int, frames: int, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """Which of `stored` frames to take, int64 (batch, frames): one of each of `frames` equal segments, rising.

    Segment sampling as in temporal segment networks (Wang et al. 2016).

    Raises:
        InputError: frames not in 1 to stored.
    """
    if generator is None:
        return torch.tensor(middle_frames(stored, frames)).expand(batch, frames)
    _check_frames(stored, frames)
    place = torch.rand(batch, frames, generator=generator, device=generator.device).cpu()
    # In float64: rounding must not lift the last draw of a segment over its end.
    return ((torch.arange(frames) + place.double()) * stored / frames).long().clamp(max=stored - 1)
