"""Whether a proposal that falls behind is worth its next rung. Stateless: decided from scores by epoch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import optuna
from optuna.trial import TrialState

Rungs = Mapping[int, float]
"""Score by epoch; larger is better."""

REDUCTION = 2
"""ASHA's eta: one in REDUCTION goes on from each of its rungs."""


def should_prune(pruner: Literal["none", "median", "asha"], rungs: Rungs, others: Sequence[Rungs]) -> bool:
    """Whether a running proposal should stop after its last rung.

    Args:
        rungs: its own scores so far.
        others: those of the arm's finished and pruned proposals.
    """
    if pruner == "none" or not rungs:
        return False
    return (_median if pruner == "median" else _asha)(rungs, [other for other in others if other])


def _asha(rungs: Rungs, others: Sequence[Rungs]) -> bool:
    """Asynchronous successive halving (Li et al. 2020): go on only within the best 1/eta of who came this far.

    Its rungs are the first reported epoch times powers of eta; between them nothing is pruned.
    """
    last, first = max(rungs), min(rungs)
    at_rung = any(last == first * REDUCTION**k for k in range(32))
    scores = sorted((other[last] for other in others if last in other), reverse=True)
    if not at_rung or len(scores) + 1 < REDUCTION:
        return False
    promoted = (len(scores) + 1) // REDUCTION
    return sum(score > rungs[last] for score in scores) >= promoted


def _median(rungs: Rungs, others: Sequence[Rungs]) -> bool:
    """Optuna's median pruner over an in-memory copy of the history."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    for other in others:
        value = other[max(other)]
        trial = optuna.trial.create_trial(state=TrialState.COMPLETE, value=value, intermediate_values=dict(other))
        study.add_trial(trial)
    running = study.ask()
    for epoch, score in sorted(rungs.items()):
        running.report(score, epoch)
    return running.should_prune()
