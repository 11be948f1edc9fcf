"""Text-guided frame selection: one score per frame from the frame and the text; the best frames are kept.

Names: B pairs, T frames, K kept frames, Q texts, V videos.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from naslab.search_spaces.common.modules.top_k import Chosen, Estimator, choose


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
        """The frames of best scores (B, T); in evaluation without noise."""
        estimator = self.estimator if self.training else None
        return choose(scores, self.keep, estimator, self.samples, self.sigma)


def joined_width(text_width: int) -> int:
    """Width in which the selector joins frame and text."""
    return max(text_width // 2, 8)
