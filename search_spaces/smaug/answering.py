"""Video question answering: open-ended as classification over the answers, multiple choice by the matching head."""

from __future__ import annotations

import torch
from torch import Tensor

from naslab.search_spaces.common import scores
from naslab.search_spaces.smaug.model import SMAUG, Video
from naslab.search_spaces.smaug.pairs import Pairs


def open_accuracy(model: SMAUG, pairs: Pairs, answers: int, batch: int) -> float:
    """Share of open-ended questions whose answer is the likeliest of the first `answers`; unknown answers are wrong."""
    asked, right = pairs.open, 0
    for questions in torch.arange(len(asked.clips_Q)).split(batch):
        ids = asked.ids_QW[questions]
        logits = model.answers(ids.to(_device(model)), _watched(model, pairs, asked.clips_Q[questions]))
        right += int((logits[:, :answers].argmax(1).cpu() == asked.answers_Q[questions]).sum())
    return right / len(asked.clips_Q)


def choice_accuracy(model: SMAUG, pairs: Pairs, batch: int) -> float:
    """Share of multiple-choice questions whose right option fits best; options that fit alike share the point."""
    ids_NW = torch.cat([choice.ids_OW for choice in pairs.choices])
    sizes = [len(choice.ids_OW) for choice in pairs.choices]
    clips_N = torch.tensor([choice.clip for choice in pairs.choices]).repeat_interleave(torch.tensor(sizes))
    fits = [
        model.fit(ids.to(_device(model)), _watched(model, pairs, clips)).cpu()
        for ids, clips in zip(ids_NW.split(batch), clips_N.split(batch), strict=True)
    ]
    return scores.choice_accuracy(torch.cat(fits).split(sizes), [choice.right for choice in pairs.choices])


def _watched(model: SMAUG, pairs: Pairs, clips_N: Tensor) -> Video:
    """The clips, each encoded once, repeated as asked."""
    clips, place = clips_N.unique(return_inverse=True)
    device = _device(model)
    return model.watch(pairs.frames(clips, model.settings.frames).to(device)).of(place.to(device))


def _device(model: SMAUG) -> torch.device:
    return next(model.parameters()).device
