"""Whether to stop a proposal, decided from scores by epoch only.

The rules as formulas, and what they mean where trials run side by side: docs/search.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import quantiles

from naslab.nas.arms import Sampled

Curve = Mapping[int, float]
"""Score by epoch; larger is better."""


def is_behind(arm: Sampled, own: Curve, peers: Sequence[Curve], first_epoch: int, bracket: int = 0) -> bool:
    """Whether a proposal should stop after its last epoch in `own`.

    Args:
        own: its scores so far.
        peers: those of the arm's other proposals, running, finished and pruned, as far as they were recorded before
            this one's last; for `hyperband` of the same bracket.
        first_epoch: the first that any proposal of the arm reports; halving starts there unless `first_rung` says.
        bracket: of `hyperband_bracket`.
    """
    if _still_improves(own, arm.patience):
        return False
    match arm.pruner:
        case "median":
            return _below_quantile(own, peers, 50.0, arm.startup)
        case "percentile":
            return _below_quantile(own, peers, 100.0 - arm.keep, arm.startup)
        case "asha" | "hyperband":
            start = (arm.first_rung or first_epoch) * arm.reduction**bracket
            return _halved(own, peers, start, arm.reduction)
    return False


def hyperband_bracket(index: int, max_epochs: int, reduction: int = 2) -> int:
    """The bracket of the arm's proposal number `index`: bracket k halves from the first rung times eta^k on.

    Brackets 0 (the earliest halving) to s = floor(log_eta(max_epochs)) take turns in blocks of
    ceil((s + 1) / (s - k + 1) * eta^(s - k)) proposals, the sizes of Hyperband (Li et al. 2018, algorithm 1).
    """
    last = int(math.log(max_epochs, reduction) + 1e-9) if max_epochs > 1 else 0
    sizes = [math.ceil((last + 1) / (last - k + 1) * reduction ** (last - k)) for k in range(last + 1)]
    position = index % sum(sizes)
    for bracket, size in enumerate(sizes):
        if position < size:
            return bracket
        position -= size
    raise AssertionError("a position is in one of the blocks")


def _still_improves(own: Curve, patience: int) -> bool:
    """Whether the best score is among the last `patience` ones."""
    scores = [own[epoch] for epoch in sorted(own)]
    return patience > 0 and (len(scores) <= patience or max(scores[-patience:]) > max(scores[:-patience]))


def _halved(own: Curve, peers: Sequence[Curve], start: int, reduction: int) -> bool:
    """Asynchronous successive halving (Li et al. 2020): go on only within the best 1/eta of who came this far."""
    rung = _rung_reached(own, start, reduction)
    if rung is None:
        return False
    score = own[max(own)]
    there = [found for found in (_at(peer, rung) for peer in peers) if found is not None]
    number = len(there) + 1
    return number >= reduction and sum(other > score for other in there) >= number // reduction


def _rung_reached(own: Curve, start: int, reduction: int) -> int | None:
    """The highest of the rungs start * eta^k that lies after the epoch before the last, up to the last."""
    last = max(own)
    before = max((epoch for epoch in own if epoch < last), default=0)
    rung = start
    while rung * reduction <= last:
        rung *= reduction
    return rung if before < rung <= last else None


def _at(curve: Curve, rung: int) -> float | None:
    """The score at the first reported epoch that reaches the rung."""
    reached = [epoch for epoch in curve if epoch >= rung]
    return curve[min(reached)] if reached else None


def _below_quantile(own: Curve, peers: Sequence[Curve], percent: float, startup: int) -> bool:
    """Whether the best so far is below that percentile of the peers' scores at this epoch, if `startup` are there."""
    there = [peer[max(own)] for peer in peers if max(own) in peer]
    if len(there) < max(startup, 1):
        return False
    return max(own.values()) < _percentile(there, percent)


def _percentile(values: Sequence[float], percent: float) -> float:
    """The percentile with linear interpolation, as numpy's."""
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=1000, method="inclusive")[round(10 * percent) - 1] if percent > 0 else min(values)
