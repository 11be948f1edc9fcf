"""Stand-ins until the token kernels are merged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def class_scores(query_BHD: Tensor, keys_BHND: Tensor, scale: float) -> Tensor:
    logits = torch.einsum("bhd,bhnd->bhn", query_BHD, keys_BHND) * scale
    return logits.softmax(-1).mean(1)


def select_tokens(tokens_BND: Tensor, scores_BN: Tensor, keep: int, fuse: bool) -> tuple[Tensor, Tensor]:
    b, n, d = tokens_BND.shape
    order = scores_BN.argsort(1, descending=True, stable=True)
    chosen, rest = order[:, :keep], order[:, keep:]
    kept = tokens_BND.gather(1, chosen[..., None].expand(b, keep, d))
    if fuse:
        dropped = tokens_BND.gather(1, rest[..., None].expand(b, n - keep, d))
        kept = torch.cat([kept, (dropped * scores_BN.gather(1, rest)[..., None]).sum(1, keepdim=True)], 1)
    return kept, chosen


class Matching(NamedTuple):
    unmerged: Tensor
    source: Tensor
    target: Tensor
    tokens: int


def bipartite_match(metric_BND: Tensor, r: int, protected: int) -> Matching:
    metric = F.normalize(metric_BND, dim=-1)
    a, b = metric[:, ::2], metric[:, 1::2]
    scores = a @ b.transpose(1, 2)
    if protected:
        scores[:, 0, :] = -torch.inf
    best, partner = scores.max(-1)
    order = best.argsort(1, descending=True, stable=True)
    source = order[:, :r]
    unmerged = order[:, r:].sort(1).values if protected else order[:, r:]
    return Matching(unmerged, source, partner.gather(1, source), metric.shape[1])


def merge_tokens(tokens_BND: Tensor, sizes_BN: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    d = tokens_BND.shape[2]
    weighted = torch.cat([tokens_BND * sizes_BN[..., None], sizes_BN[..., None]], 2)
    a, b = weighted[:, ::2], weighted[:, 1::2]
    wide = d + 1
    rest = a.gather(1, matching.unmerged[..., None].expand(-1, -1, wide))
    src = a.gather(1, matching.source[..., None].expand(-1, -1, wide))
    b = b.scatter_add(1, matching.target[..., None].expand(-1, -1, wide), src)
    out = torch.cat([rest, b], 1)
    return out[..., :d] / out[..., d:], out[..., d]


def unmerge(tokens_BMD: Tensor, matching: Matching) -> Tensor:
    b, _, d = tokens_BMD.shape
    kept = matching.unmerged.shape[1]
    rest, second = tokens_BMD[:, :kept], tokens_BMD[:, kept:]
    out = tokens_BMD.new_zeros(b, matching.tokens, d)

    def wide(index: Tensor) -> Tensor:
        return index[..., None].expand(-1, -1, d)

    out[:, 1::2] = second
    out = out.scatter(1, wide(2 * matching.unmerged), rest)
    return out.scatter(1, wide(2 * matching.source), second.gather(1, wide(matching.target)))
