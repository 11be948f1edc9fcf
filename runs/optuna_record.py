"""How trials are stored in Optuna's storage, so that Optuna's own tools show the truth about a study.

A study named NAME is two Optuna studies. The one called NAME holds what was searched: proposals, and the points of
grids with the first seed. Its COMPLETE trials have a validation score under the metric's name, and with a Pareto
objective the cost beside it. The one called `NAME: baselines and finals` holds everything else: controls, the
reference, random architectures, searches by gradient, retrained finalists, repeats of points, profiles. `number`
counts the trials of both in the order in which they began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from naslab.nas.arms import Grid
from naslab.nas.encoding import flatten
from naslab.runs.past import last_score, tell
from naslab.runs.records import JOB, NUMBER
from naslab.runs.study import Study
from naslab.runs.trial import Job, State, Trial

STATES: dict[State, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "timed_out": TrialState.FAIL,
    "interrupted": TrialState.FAIL,
}
ASIDE = ": baselines and finals"
"""What follows a study's name in the name of the Optuna study that holds what was not searched; no study's own name
has a colon."""


def directions(study: Study) -> list[StudyDirection]:
    """What the search wants of its values."""
    score = [StudyDirection.MAXIMIZE if study.objective.sign > 0 else StudyDirection.MINIMIZE]
    return [*score, StudyDirection.MINIMIZE] if study.objective.kind == "pareto" else score


def metric_names(study: Study, metric: str, number: int) -> list[str]:
    """Names of the first `number` values of a searched trial."""
    return [metric, f"{study.objective.cost or 'hours of a run'}"][:number]


def is_searched(study: Study, job: Job) -> bool:
    """Whether the trial belongs to the Optuna study of what was searched."""
    if job.role == "proposal":
        return True
    arm = next((arm for arm in study.arms if arm.name == job.arm), None)
    return job.role == "final" and isinstance(arm, Grid) and job.seed == study.seeds[0]


def template(study: Study, job: Job, number: int) -> FrozenTrial:
    """A trial that begins: its flat parameters, and the job among its attributes."""
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    if job.configuration is not None:
        params, distributions = flatten(study.search_space, job.configuration, proposed_only=False)
    facts = {k: v for k, v in asdict(job).items() if k != "configuration"}
    facts["configuration"] = None if job.configuration is None else job.configuration.as_dict()
    shown = {NUMBER: number, "role": job.role, "label": job.label, "seed": job.seed}
    return create_trial(
        state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs={**shown, JOB: facts}
    )


def end(study: Study, trial: Trial, num_values: int) -> tuple[TrialState, list[float] | None]:
    """Optuna's state and values of a trial that ended.

    Args:
        num_values: how many values the trial's Optuna study has.

    A trial that is complete without a finite value, as a profile is, ends as PRUNED: Optuna's tools take every
    COMPLETE trial for one with values.
    """
    state = STATES[trial.state]
    if state == TrialState.FAIL:
        return state, None
    values = _values(study, trial, num_values)
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) == len(values):
        return state, known
    return TrialState.PRUNED, None


def _values(study: Study, trial: Trial, num_values: int) -> Sequence[float | None]:
    metric = str(trial.result.get("metric", ""))
    if is_searched(study, trial.job):
        observation = tell(study, trial, metric)
        value = None if observation.value is None else study.objective.sign * observation.value
        return [value, observation.cost][:num_values]
    score = trial.scores.get(metric, last_score(trial, metric))
    return [trial.result.get("supernet_scores", {}).get(metric) if trial.job.role == "search" else score]
