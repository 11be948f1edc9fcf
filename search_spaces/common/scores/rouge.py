"""ROUGE-L: how much of a text is in another, in order (Lin 2004)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def rouge_l(written: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    """F1 of the longest common subsequence of two token sequences, from 0 to 1; 0 where one is empty."""
    common = _longest_common(written, wanted)
    return 2 * common / (len(written) + len(wanted)) if common else 0.0


def _longest_common(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
