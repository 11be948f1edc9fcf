"""Similarities of all texts and videos of a split, by the contrastive encoders or re-ranked by the matching head."""

from __future__ import annotations

import torch
from torch import Tensor

from naslab.search_spaces.smaug.model import SMAUG, Video
from naslab.search_spaces.smaug.pairs import Pairs

TEXTS_AT_ONCE = 32


def text_to_video(model: SMAUG, pairs: Pairs, batch: int, rerank: int = 0) -> Tensor:
    """Similarity (Q, V) of every caption and every clip, on the CPU.

    Args:
        rerank: this many best clips of each caption are ordered anew by the matching head; they stay before the rest.
    """
    device = next(model.parameters()).device
    unique_UW, which_Q = pairs.captions_CW.unique(dim=0, return_inverse=True)
    text_UD = torch.cat([model.text.encode(ids.to(device))[:, 0] for ids in unique_UW.split(batch)])
    classes, features = [], []
    for clips in torch.arange(len(pairs.video)).split(batch):
        video = model.watch(pairs.frames(clips, model.settings.frames).to(device))
        classes.append(video.tokens_BTND[:, :, 0])
        features.append(video.features_BTF)
    joined = None if features[0] is None else torch.cat([f for f in features if f is not None])
    similarity_UV = torch.cat(
        [model.similarities(part, torch.cat(classes), joined).cpu() for part in text_UD.split(TEXTS_AT_ONCE)]
    )
    if rerank:
        similarity_UV = _reranked(model, pairs, unique_UW, similarity_UV, min(rerank, len(pairs.video)), batch)
    return similarity_UV[which_Q]


def _reranked(model: SMAUG, pairs: Pairs, ids_UW: Tensor, similarity_UV: Tensor, best: int, batch: int) -> Tensor:
    """Log-odds of fitting for the best clips of each text, lifted over all other similarities (which are cosines)."""
    device = next(model.parameters()).device
    clips_UR = similarity_UV.topk(best, 1).indices
    ranked = similarity_UV.clone()
    video: Video | None = None
    texts_U = torch.arange(len(ids_UW)).repeat_interleave(best)
    fits = []
    # Clip by clip, so that each clip is encoded once for all the texts that want it.
    order = clips_UR.flatten().argsort(stable=True)
    for part in order.split(batch):
        clips, place = clips_UR.flatten()[part].unique(return_inverse=True)
        video = model.watch(pairs.frames(clips, model.settings.frames).to(device))
        fits.append(model.fit(ids_UW[texts_U[part]].to(device), video.of(place.to(device))).sigmoid().cpu())
    found = torch.empty(len(order)).scatter(0, order, torch.cat(fits))
    return ranked.scatter(1, clips_UR, 2 + found.view_as(clips_UR))
