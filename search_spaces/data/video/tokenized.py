"""Clips of a split with their texts as token numbers, drawn clip by clip."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from naslab.search_spaces.data.text import IGNORED, SpecialIds, TextTokenizer, named_tokenizer, train_wordpiece
from naslab.search_spaces.data.video.sets import Question, VideoText, VideoTextData

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


class TokenizedClips:
    """Clips of one split, frames normalised, with their captions and questions as token numbers.

    `blind` clips are shown as black frames: what is left is the text.
    """

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

    def __len__(self) -> int:
        """Clips."""
        return len(self.video)

    def blinded(self) -> TokenizedClips:
        """The same with black frames."""
        twin = copy.copy(self)
        twin.blind = True
        return twin

    def frames(self, clips: Tensor, frames: int, generator: torch.Generator | None = None) -> Tensor:
        """Normalised frames (B, T, C, H, W)."""
        shown = self.video.fetch(clips, frames, generator).float() / 255
        shown = (shown - self.mean) / self.std
        return torch.zeros_like(shown) if self.blind else shown

    def caption(self, clips: Tensor, drawn_B: Tensor) -> Tensor:
        """One caption (B, W) of each clip, by numbers in [0, 1)."""
        return self.captions_CW[_pick(self._captions_of, clips, drawn_B)]

    def question(self, clips: Tensor, drawn_B: Tensor) -> tuple[Tensor, Tensor]:
        """One open-ended question (B, W) of each clip and its answer (B,); empty and IGNORED where there is none."""
        chosen = _pick(self._questions_of, clips, drawn_B)
        there = chosen >= 0
        ids = torch.where(there[:, None], self.open.ids_QW[chosen], self.empty_W)
        return ids, torch.where(there, self.open.answers_Q[chosen], IGNORED)


def tokenized(
    data: VideoTextData, tokenizer: str | None, vocabulary: int, special: SpecialIds, length: int
) -> dict[str, TokenizedClips]:
    """The parts `train`, `validation` and `test`, their texts cut and padded to `length` tokens.

    Args:
        tokenizer: by name or path; None: a WordPiece trained on the training text.

    Raises:
        InputError: the tokenizer cannot be loaded or trained, or numbers otherwise.
    """
    if tokenizer is None:
        made = train_wordpiece(data.words, vocabulary, special, length)
    else:
        made = named_tokenizer(tokenizer, vocabulary, special, length)
    return {part: TokenizedClips(data.of(part), data, made) for part in ("train", "validation", "test")}


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
