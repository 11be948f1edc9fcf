"""Whether a proposal that falls behind is worth its next rung. Stateless: decided from scores by epoch alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import optuna
from optuna.trial import TrialState

Rungs = Mapping[int, float]
"""Score by epoch; larger is better."""

Pruner = Literal["none", "median", "percentile", "asha", "hyperband"]

REDUCTION = 2
"""ASHA's eta: one in REDUCTION goes on from each of its rungs."""
PERCENTILE = 25.0
"""`percentile` keeps what is within this best share of the others at the same epoch."""


def should_prune(pruner: Pruner, rungs: Rungs, others: Sequence[Rungs], bracket: int = 0) -> bool:
    """Whether a running proposal should stop after its last rung.

    Args:
        pruner: the rule.
        rungs: its own scores so far.
        others: those of the arm's finished and pruned proposals; of the same bracket for `hyperband`.
        bracket: of `hyperband_bracket`.
    """
    if pruner == "none" or not rungs:
        return False
    compared = [other for other in others if other]
    match pruner:
        case "median":
            return _percentile(rungs, compared, 50.0)
        case "percentile":
            return _percentile(rungs, compared, PERCENTILE)
        case "asha":
            return _asha(rungs, compared)
        case "hyperband":
            return _asha(rungs, compared, REDUCTION**bracket)


def hyperband_bracket(index: int, max_epochs: int) -> int:
    """The bracket of the arm's proposal number `index`: bracket k halves from the first rung times eta^k on.

    Brackets 0 (the earliest halving) to s = floor(log_eta(max_epochs)) take turns in blocks of
    ceil((s + 1) / (s - k + 1) * eta^(s - k)) proposals, the sizes of Hyperband (Li et al. 2018, algorithm 1).
    """
    last = int(math.log(max_epochs, REDUCTION) + 1e-9) if max_epochs > 1 else 0
    sizes = [math.ceil((last + 1) / (last - k + 1) * REDUCTION ** (last - k)) for k in range(last + 1)]
    position = index % sum(sizes)
    for bracket, size in enumerate(sizes):
        if position < size:
            return bracket
        position -= size
    raise AssertionError("a position is in one of the blocks")


def _asha(rungs: Rungs, others: Sequence[Rungs], start: int = 1) -> bool:
    """Asynchronous successive halving (Li et al. 2020): go on only within the best 1/eta of who came this far.

    Its rungs are the first reported epoch, times `start`, times powers of eta; between them nothing is pruned.
    """
    last, first = max(rungs), min(rungs)
    at_rung = any(last == first * start * REDUCTION**k for k in range(32))
    scores = sorted((other[last] for other in others if last in other), reverse=True)
    if not at_rung or len(scores) + 1 < REDUCTION:
        return False
    promoted = (len(scores) + 1) // REDUCTION
    return sum(score > rungs[last] for score in scores) >= promoted


def _percentile(rungs: Rungs, others: Sequence[Rungs], percentile: float) -> bool:
    """Optuna's percentile pruner (the median is the 50th) over an in-memory copy of the history."""
    pruner = optuna.pruners.PercentilePruner(percentile, n_startup_trials=3)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for other in others:
        value = other[max(other)]
        trial = optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, intermediate_values=dict(other))
        study.add_trial(trial)
    running = study.ask()
    for epoch, score in sorted(rungs.items()):
        running.report(score, epoch)
    return running.should_prune()
