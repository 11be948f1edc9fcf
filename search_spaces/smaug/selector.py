"""Text-guided frame selection: one score per frame from the frame and the text, the best frames go on.

How gradients reach the scores is a choice: `straight_through` (Gumbel noise; kept frames carry a gate of 1 whose
gradient is that of their softmax share) or `perturbed` (Cordonnier et al. 2021, as in STTS: the mean selection over
noisy scores, a soft mixture of frames in training). Evaluation takes the top frames, without noise.

Names: B pairs, T frames, K kept frames, Q texts, V videos.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.search_spaces.common.modules.top_k import PerturbedTopK, top_in_order
from naslab.search_spaces.smaug.design import Estimator


class Chosen(NamedTuple):
    """The kept frames (B, K) in order of time, and what carries their gradient: gates (B, K) or soft rows (B, K, T)."""

    frames_BK: Tensor
    gates_BK: Tensor | None = None
    rows_BKT: Tensor | None = None

    def take(self, values: Tensor) -> Tensor:
        """The kept frames of (B, T, ...), as (B, K, ...)."""
        if self.rows_BKT is not None:
            mixed: Tensor = torch.bmm(self.rows_BKT.to(values.dtype), values.flatten(2))
            return mixed.reshape(*mixed.shape[:2], *values.shape[2:])
        index = self.frames_BK.reshape(*self.frames_BK.shape, *(1,) * (values.ndim - 2))
        taken = values.gather(1, index.expand(-1, -1, *values.shape[2:]))
        return taken if self.gates_BK is None else taken * self.gates_BK.reshape(index.shape)

    def shares(self, frames: int) -> Tensor:
        """The share (B, T) of each of `frames` frames in the mean of what is kept."""
        keep = self.frames_BK.shape[1]
        if self.rows_BKT is not None:
            return self.rows_BKT.mean(1)
        gates = torch.ones_like(self.frames_BK, dtype=torch.float32) if self.gates_BK is None else self.gates_BK
        return gates.new_zeros(len(gates), frames).scatter(1, self.frames_BK, gates / keep)


class FrameSelector(nn.Module):
    """Scores frames for a text by a small MLP on both, and chooses the best `keep`."""

    def __init__(
        self, frame_width: int, text_width: int, keep: int, estimator: Estimator, samples: int, sigma: float
    ) -> None:
        super().__init__()
        hidden = joined_width(text_width)
        self.keep, self.estimator, self.samples, self.sigma = keep, estimator, samples, sigma
        self.frame = nn.Sequential(nn.LayerNorm(frame_width), nn.Linear(frame_width, hidden))
        self.text = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, hidden))
        self.score = nn.Linear(hidden, 1)

    def scores(self, features_BTF: Tensor, text_BD: Tensor) -> Tensor:
        """Scores (B, T) of each pair's frames."""
        return self._scores(self.frame(features_BTF), self.text(text_BD)[:, None])

    def _scores(self, frames: Tensor, texts: Tensor) -> Tensor:
        scores: Tensor = self.score(F.gelu(frames + texts)).squeeze(-1)
        return scores

    def shares_of_all(self, features_VTF: Tensor, text_QD: Tensor) -> Tensor:
        """For every text and every video, the share that each frame has in what is kept: (Q, V, T), sums of 1."""
        scores = self._scores(self.frame(features_VTF)[None], self.text(text_QD)[:, None, None])
        shares_QVT: Tensor = self.choose(scores.flatten(0, 1)).shares(scores.shape[2]).unflatten(0, scores.shape[:2])
        return shares_QVT

    def forward(self, features_BTF: Tensor, text_BD: Tensor) -> Chosen:
        """Choose frames for each pair."""
        return self.choose(self.scores(features_BTF, text_BD))

    def choose(self, scores: Tensor) -> Chosen:
        """The frames of best scores (B, T); noise only in training, from torch's generator."""
        if not self.training:
            return Chosen(top_in_order(scores, self.keep))
        if self.estimator == "perturbed":
            noise = torch.randn(len(scores), self.samples, scores.shape[1], device=scores.device)
            rows: Any = PerturbedTopK.apply(scores, noise, self.keep, self.sigma)
            return Chosen(top_in_order(scores, self.keep), rows_BKT=rows)
        noisy = scores - torch.empty_like(scores).exponential_().clamp(min=1e-9).log()
        frames = top_in_order(noisy, self.keep)
        share = noisy.softmax(-1).gather(1, frames)
        return Chosen(frames, gates_BK=share - share.detach() + 1)


def joined_width(text_width: int) -> int:
    """Width in which the selector joins frame and text."""
    return max(text_width // 2, 8)
