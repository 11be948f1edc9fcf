"""A split of clips with its texts as token numbers, and the training batches made of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from naslab.search_spaces.data.text import IGNORED, TextTokenizer
from naslab.search_spaces.data.video import Question, VideoText, VideoTextData
from naslab.search_spaces.smaug.options import SMAUGOptions

CAPTION_CHOICE = "choice"
"""Kind of a question whose options are whole captions; of others, question and option are read together."""


@dataclass(frozen=True)
class Open:
    """Open-ended questions: tokens (Q, W), clips (Q,), and the number of the answer (Q,), IGNORED if never trained."""

    ids_QW: Tensor
    clips_Q: Tensor
    answers_Q: Tensor


@dataclass(frozen=True)
class Choice:
    """A question with options: tokens (O, W) of each option, the clip, and which is right."""

    ids_OW: Tensor
    clip: int
    right: int


class Pairs:
    """Clips and texts of one split. `blind` clips are shown as black frames: what is left is the text."""

    def __init__(self, video: VideoText, data: VideoTextData, tokenizer: TextTokenizer) -> None:
        self.video, self.blind = video, False
        self.mean = torch.tensor(data.mean)[:, None, None]
        self.std = torch.tensor(data.std)[:, None, None]
        self.empty_W = tokenizer([""])[0]
        self.captions_CW, self.caption_clips = tokenizer(list(video.captions)), video.caption_clips
        self._captions_of = _by_clip(video.caption_clips, len(video))
        answers = {answer: number for number, answer in enumerate(data.answers)}
        asked = [q for q in video.questions if not q.options]
        self.open = Open(
            tokenizer([q.text for q in asked]),
            torch.tensor([q.clip for q in asked], dtype=torch.long),
            torch.tensor([answers.get(q.answer, IGNORED) for q in asked], dtype=torch.long),
        )
        answerable = (self.open.answers_Q != IGNORED).nonzero().flatten()
        self._questions_of = _by_clip(self.open.clips_Q[answerable], len(video), answerable)
        self.choices = [_choice(q, tokenizer) for q in video.questions if q.options]

    def blinded(self) -> Pairs:
        """The same with black frames."""
        twin = copy.copy(self)
        twin.blind = True
        return twin

    def frames(self, clips: Tensor, frames: int, generator: torch.Generator | None = None) -> Tensor:
        """Normalised frames (B, T, C, H, W)."""
        shown = self.video.fetch(clips, frames, generator).float() / 255
        shown = (shown - self.mean) / self.std
        return torch.zeros_like(shown) if self.blind else shown

    def batch(
        self, clips: Tensor, frames: int, sizes: SMAUGOptions, generator: torch.Generator | None, questions: bool
    ) -> dict[str, Tensor]:
        """What a model's training forward takes; without generator the first caption and question of each clip."""
        drawn = torch.rand(len(clips), 2, generator=generator) if generator else torch.zeros(len(clips), 2)
        captions = _pick(self._captions_of, clips, drawn[:, 0])
        batch = {
            "frames": self.frames(clips, frames, generator),
            "text_ids": self.captions_CW[captions],
            "visual_noise": torch.rand(len(clips), frames, sizes.patches, generator=generator),
            "text_noise": torch.rand(len(clips), sizes.text_tokens, 3, generator=generator),
            "negative_noise": torch.rand(len(clips), 2, generator=generator),
        }
        if questions and len(self.open.clips_Q):
            chosen = _pick(self._questions_of, clips, drawn[:, 1])
            there = chosen >= 0
            batch["question_ids"] = torch.where(there[:, None], self.open.ids_QW[chosen], self.empty_W)
            batch["answers"] = torch.where(there, self.open.answers_Q[chosen], IGNORED)
        return batch


def _choice(question: Question, tokenizer: TextTokenizer) -> Choice:
    whole = question.kind == CAPTION_CHOICE
    texts: Sequence[str] = [option if whole else f"{question.text} {option}" for option in question.options]
    return Choice(tokenizer(texts), question.clip, question.options.index(question.answer))


def _by_clip(owners: Tensor, clips: int, numbers: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the texts sorted by clip, where each clip's begin, and how many it has."""
    order = owners.argsort(stable=True)
    counts = torch.bincount(owners, minlength=clips)
    return order if numbers is None else numbers[order], counts.cumsum(0) - counts, counts


def _pick(texts: tuple[Tensor, Tensor, Tensor], clips: Tensor, drawn: Tensor) -> Tensor:
    """One text of each clip by numbers in [0, 1); -1 where it has none."""
    order, starts, counts = texts
    count = counts[clips]
    place = starts[clips] + (drawn * count).long().clamp(max=(count - 1).clamp(min=0))
    return torch.where(count > 0, order[place.clamp(max=max(len(order) - 1, 0))], -1)
