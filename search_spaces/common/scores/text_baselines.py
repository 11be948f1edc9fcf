"""What a text gives away without a network: n-gram counts and a compressor, in bits."""

from __future__ import annotations

import lzma
import math
from collections import Counter, defaultdict

from torch import Tensor

Context = tuple[int, ...]


def bits(total_bits: float, num_bytes: float, raw_bits: float) -> dict[str, float]:
    """Scores of a code of `total_bits` for `num_bytes` bytes."""
    per_byte = total_bits / num_bytes
    return {"saved_bits_per_byte": raw_bits - per_byte, "bits_per_byte": per_byte}


def ngram_bits(train_N: Tensor, text_M: Tensor, vocabulary: int, order: int) -> float:
    """Bits of `text_M` under an n-gram model of `train_N`, each order interpolated with the one below.

    Witten and Bell 1991: after a context seen c times with t different successors, the weight of the lower order is
    t / (c + t); below the unigram every token is equally likely.
    """
    train: list[int] = train_N.tolist()
    text: list[int] = text_M.tolist()
    successors: list[dict[Context, Counter[int]]] = []
    for length in range(order):
        counts: dict[Context, Counter[int]] = defaultdict(Counter)
        for at in range(length, len(train)):
            counts[tuple(train[at - length : at])][train[at]] += 1
        successors.append(counts)
    totals = [{c: (sum(n.values()), len(n)) for c, n in counts.items()} for counts in successors]
    total = 0.0
    for at, token in enumerate(text):
        probability = 1 / vocabulary
        for length in range(min(order, at + 1)):
            context = tuple(text[at - length : at])
            if context not in totals[length]:
                break
            seen, kinds = totals[length][context]
            probability = (successors[length][context][token] + kinds * probability) / (seen + kinds)
        total -= math.log2(probability)
    return total


def lzma_bits(train: str, text: str) -> float:
    """Bits that LZMA needs for `text` once it has seen `train`."""
    alone, both = (len(lzma.compress(t.encode(), preset=9 | lzma.PRESET_EXTREME)) for t in (train, train + text))
    return 8.0 * (both - alone)
