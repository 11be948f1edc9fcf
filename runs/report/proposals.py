"""What the search tried, in Optuna's own plots: history, importance, slices and parallel coordinates of each arm."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState, create_trial

from naslab.errors import InputError
from naslab.nas.encoding import flatten
from naslab.nas.quiet import optuna_warns_only
from naslab.runs.past import last_score
from naslab.runs.report import figures
from naslab.runs.report.markup import Html, join, note, plot, tag
from naslab.runs.report.section import Findings, Section, empty
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.search_spaces import Configuration, SearchSpace

FEWEST = 4
"""Proposals with a score from which the plots say something."""
PARAMETERS = 6
"""How many parameters slices and coordinates show: the most important."""


def proposals(found: Findings) -> Section:
    """Optuna's plots of each arm that asks Optuna."""
    id, title = "proposals", "What the search tried"
    parts: list[Html] = []
    for arm in found.study.arms:
        tried = [t for t in found.trials if t.job.arm == arm.name and t.job.role == "proposal"]
        study = _study_of(found.study, tried, found.ranking.metric)
        if len(study.trials) >= FEWEST:
            parts += [tag("h3", arm.name), *_plots(study, f"validation {found.ranking.metric}", arm.name)]
    if not parts:
        return empty(id, title, "No arm has proposed enough configurations yet.")
    return Section(id, title, join([*parts, note("By the validation score, which is what a search may look at.")]))


def _is_in(space: SearchSpace, configuration: Configuration | None) -> bool:
    """Whether the space still has it: a space that has shrunk since draws what it can."""
    try:
        return configuration is not None and space.configuration(configuration) == configuration
    except InputError:
        return False


def _study_of(study: Study, tried: list[Trial], metric: str) -> optuna.Study:
    """The arm's scored proposals as an Optuna study in memory."""
    with optuna_warns_only():
        made = optuna.create_study(direction=study.objective.direction)
    for trial in tried:
        score = last_score(trial, metric)
        if trial.state == "complete" and score is not None and _is_in(study.search_space, trial.job.configuration):
            assert trial.job.configuration is not None
            params, distributions = flatten(study.search_space, trial.job.configuration)
            made.add_trial(
                create_trial(state=TrialState.COMPLETE, value=score, params=params, distributions=distributions)
            )
    return made


def _plots(study: optuna.Study, target: str, arm: str) -> list[Html]:
    important = _important(study)
    importances = partial(visualization.plot_param_importances, study, params=important, target_name=target)
    drawn: list[tuple[str, Callable[[], Any]]] = [
        ("history", lambda: visualization.plot_optimization_history(study, target_name=target))
    ]
    if important:
        drawn += [
            ("importance", lambda: importances(evaluator=PedAnovaImportanceEvaluator())),
            ("slices", lambda: visualization.plot_slice(study, params=important, target_name=target)),
        ]
    if len(important) > 1:
        drawn.append(
            ("coordinates",
             lambda: visualization.plot_parallel_coordinate(study, params=important, target_name=target))
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return [plot(_calm(draw()), f"{name} of {arm}") for name, draw in drawn]


def _important(study: optuna.Study) -> list[str]:
    """Parameters by importance, the most important first; none where Optuna cannot tell.

    By PED-ANOVA (Watanabe et al. 2023): the default of Optuna 5, where that of Optuna 4 needs scikit-learn.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))[
                :PARAMETERS
            ]
        except (ValueError, RuntimeError, ImportError):
            return []


def _calm(figure: go.Figure) -> go.Figure:
    """Optuna's figure in the page's style."""
    figure.update_layout(
        template=go.layout.Template(), height=380, margin={"l": 60, "r": 20, "t": 56, "b": 50}, showlegend=False
    )
    for index, trace in enumerate(figure.data if len(figure.data) <= 2 else ()):
        if "marker" in trace:
            trace.update(marker={"color": figures.colour(index)})
        if trace.type == "scatter":
            trace.update(line={"color": figures.colour(index)})
    return figure
