"""Whether a proposal that falls behind is worth its next rung, by Optuna's pruners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import optuna
from optuna.trial import TrialState

Rungs = Mapping[int, float]
"""Score by epoch."""


def should_prune(pruner: Literal["none", "median", "asha"], rungs: Rungs, others: Sequence[Rungs]) -> bool:
    """Whether a running proposal should stop after its last rung.

    Args:
        rungs: its own scores so far, larger is better.
        others: those of the arm's finished and pruned proposals.
    """
    if pruner == "none" or not rungs:
        return False
    chosen: optuna.pruners.BasePruner = (
        optuna.pruners.MedianPruner(n_startup_trials=3)
        if pruner == "median"
        else optuna.pruners.SuccessiveHalvingPruner(min_resource=max(min(rungs), 1), reduction_factor=2)
    )
    study = optuna.create_study(direction="maximize", pruner=chosen)
    for other in others:
        if other:
            last = other[max(other)]
            study.add_trial(
                optuna.trial.create_trial(state=TrialState.COMPLETE, value=last, intermediate_values=dict(other))
            )
    trial = study.ask()
    for epoch, score in sorted(rungs.items()):
        trial.report(score, epoch)
    return trial.should_prune()
