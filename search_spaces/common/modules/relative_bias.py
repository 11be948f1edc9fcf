"""T5's bias by relative position, which UniLMv2 has, too: one table for all layers (Raffel et al. 2020).

Names: B texts, Q queries, K keys, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention


@dataclass(frozen=True)
class BiasSizes:
    """Buckets, half of them for either side, and the distance beyond which all places are alike; as in UniLMv2."""

    buckets: int = 32
    furthest: int = 128


class RelativeBias(nn.Module):
    """What is added to the scores of each head; from a deviation of 0 on it is nothing."""

    def __init__(self, heads: int, sizes: BiasSizes, deviation: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.table = nn.Embedding(sizes.buckets, heads)
        nn.init.normal_(self.table.weight, std=deviation)

    def forward(self, queries_BQ: Tensor, keys_BK: Tensor) -> Tensor:
        """Bias (B, H, Q, K) between places."""
        apart = keys_BK[:, None, :] - queries_BQ[:, :, None]
        bucket = T5Attention._relative_position_bucket(apart, True, self.sizes.buckets, self.sizes.furthest)
        bias: Tensor = self.table(bucket)
        return bias.permute(0, 3, 1, 2)
