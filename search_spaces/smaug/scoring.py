"""Scores of a trained model: text-video similarities, answers, and multiple choice."""

from __future__ import annotations

import torch
from torch import Tensor

from naslab.search_spaces.common import scores
from naslab.search_spaces.data.video.tokenized import TokenizedClips
from naslab.search_spaces.smaug.model import Video, VideoLanguageModel

TEXTS_AT_ONCE = 32


def text_to_video(model: VideoLanguageModel, pairs: TokenizedClips, batch: int, rerank: int = 0) -> Tensor:
    """Similarity (Q, V) of every caption and every clip, on the CPU.

    Args:
        rerank: this many best clips of each caption are ordered anew by the matching head; they stay before the rest.
    """
    device = _device(model)
    unique_UW, which_Q = pairs.captions_CW.unique(dim=0, return_inverse=True)
    text_UD = torch.cat([model.text.encode(ids.to(device))[:, 0] for ids in unique_UW.split(batch)])
    classes, features = [], []
    for clips in torch.arange(len(pairs)).split(batch):
        video = model.watch(pairs.frames(clips, model.design.frames).to(device))
        classes.append(video.tokens_BTND[:, :, 0])
        features.append(video.features_BTF)
    joined = None if features[0] is None else torch.cat([f for f in features if f is not None])
    similarity_UV = torch.cat(
        [model.similarities(part, torch.cat(classes), joined).cpu() for part in text_UD.split(TEXTS_AT_ONCE)]
    )
    if rerank:

        def log_odds(texts_N: Tensor, clips_N: Tensor) -> Tensor:
            return _fits(model, pairs, unique_UW[texts_N], clips_N, batch)

        similarity_UV = scores.reranked(similarity_UV, rerank, log_odds)
    return similarity_UV[which_Q]


def open_accuracy(model: VideoLanguageModel, pairs: TokenizedClips, answers: int, batch: int) -> float:
    """Share of open-ended questions whose answer is the likeliest of the first `answers`; unknown answers are wrong."""
    asked, logits = pairs.open, []
    for questions in torch.arange(len(asked.clips_Q)).split(batch):
        ids = asked.ids_QW[questions]
        shown = _watched(model, pairs, asked.clips_Q[questions])
        logits.append(model.answers(ids.to(_device(model)), shown)[:, :answers].cpu())
    return scores.accuracy(torch.cat(logits), asked.answers_Q)


def choice_accuracy(model: VideoLanguageModel, pairs: TokenizedClips, batch: int) -> float:
    """Share of multiple-choice questions whose right option fits its clip best."""
    sizes = [len(choice.ids_OW) for choice in pairs.choices]
    ids_NW = torch.cat([choice.ids_OW for choice in pairs.choices])
    clips_N = torch.tensor([choice.clip for choice in pairs.choices]).repeat_interleave(torch.tensor(sizes))
    fits = _fits(model, pairs, ids_NW, clips_N, batch).split(sizes)
    return scores.choice_accuracy(fits, [choice.right for choice in pairs.choices])


def _fits(model: VideoLanguageModel, pairs: TokenizedClips, ids_NW: Tensor, clips_N: Tensor, batch: int) -> Tensor:
    """Log-odds (N,) that each text fits its clip, on the CPU."""
    parts = zip(ids_NW.split(batch), clips_N.split(batch), strict=True)
    return torch.cat([model.fit(ids.to(_device(model)), _watched(model, pairs, clips)).cpu() for ids, clips in parts])


def _watched(model: VideoLanguageModel, pairs: TokenizedClips, clips_N: Tensor) -> Video:
    """The clips, each encoded once, repeated as asked."""
    clips, place = clips_N.unique(return_inverse=True)
    device = _device(model)
    return model.watch(pairs.frames(clips, model.design.frames).to(device)).of(place.to(device))


def _device(model: VideoLanguageModel) -> torch.device:
    return next(model.parameters()).device
