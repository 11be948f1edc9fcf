"""What the search tried, in Optuna's own plots: history, importance, slices and parallel coordinates of each arm."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState, create_trial

from naslab.errors import InputError
from naslab.nas.encoding import flatten
from naslab.nas.quiet import optuna_warns_only
from naslab.runs.faults import in_one_line
from naslab.runs.past import last_score
from naslab.runs.report import figures
from naslab.runs.report.markup import Html, join, note, plot, tag
from naslab.runs.report.section import Findings, Section, empty
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.search_spaces import Configuration, SearchSpace

FEWEST = 4
"""Proposals with a score from which the plots say something."""
ENOUGH = 50
"""Proposals from which importances say something: of so many the best tenth are five."""
PARAMETERS = 6
"""How many parameters slices and coordinates show: the most important."""


def proposals(found: Findings) -> Section:
    """Optuna's plots of each arm that asks Optuna."""
    id, title = "proposals", "What the search tried"
    parts: list[Html] = []
    few: list[str] = []
    for arm in found.study.arms:
        tried = [t for t in found.trials if t.job.arm == arm.name and t.job.role == "proposal"]
        study = _study_of(found.study, tried, found.ranking.metric)
        if (scored := len(study.trials)) >= FEWEST:
            parts += [tag("h3", arm.name), *_plots(study, f"validation {found.ranking.metric}", arm.name)]
        elif tried:
            few.append(f"Of {arm.name} {scored} proposal{' has' if scored == 1 else 's have'} a score.")
    left_out = " ".join([*few, f"Plots begin with {FEWEST}."]) if few else ""
    if not parts:
        return empty(id, title, left_out or "No arm has proposed configurations yet.")
    said = f"By the validation score, which is what a search may look at. {left_out}".strip()
    return Section(id, title, join([*parts, note(said)]))


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
    important, doubt = _important(study)
    together = _together(study, important)
    importances = partial(visualization.plot_param_importances, study, params=important, target_name=target)
    drawn: list[tuple[str, Callable[[], Any]]] = [
        ("history", lambda: visualization.plot_optimization_history(study, target_name=target))
    ]
    if important:
        drawn += [
            ("importance", lambda: importances(evaluator=PedAnovaImportanceEvaluator())),
            ("slices", lambda: visualization.plot_slice(study, params=important, target_name=target)),
        ]
    if len(together) > 1:
        drawn.append(
            ("coordinates",
             lambda: visualization.plot_parallel_coordinate(study, params=together, target_name=target))
        )  # fmt: skip
    made = [_drawn(name, draw, arm) for name, draw in drawn]
    return [*made, note(doubt)] if doubt else made


def _drawn(name: str, draw: Callable[[], Any], arm: str) -> Html:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return plot(_calm(draw()), f"{name} of {arm}")
        except Exception as problem:  # noqa: BLE001 - whatever a version of Optuna raises, the report is made
            return note(f"No plot of {name}: {in_one_line(problem)}")


def _important(study: optuna.Study) -> tuple[list[str], str]:
    """Parameters by importance, the most important first, and a reason to doubt them; or none, and why.

    By PED-ANOVA (Watanabe et al. 2023): the default of Optuna 5, where that of Optuna 4 needs scikit-learn. Where it
    finds nothing, Optuna's own shares are equal, as if all parameters mattered alike; and one that never changed has
    some, too.
    """
    trials = study.get_trials(deepcopy=False)
    if len({trial.value for trial in trials}) == 1:
        return [], "No importances: all proposals have the same score."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=PedAnovaImportanceEvaluator(), normalize=False
            )
        except Exception as problem:  # noqa: BLE001 - as for a plot
            return [], f"No importances: {in_one_line(problem)}"
    varied = {name for name in found if len({repr(trial.params.get(name)) for trial in trials}) > 1}
    important = [name for name, importance in found.items() if name in varied and importance > 0][:PARAMETERS]
    if not important:
        return [], "No importances: the best tenth of the proposals differs from all of them in no parameter."
    if len(trials) >= ENOUGH:
        return important, ""
    return important, (
        f"Importances hold the best tenth of the proposals against all of them; below {ENOUGH} proposals they say "
        f"little. Here are {len(trials)}."
    )


def _together(study: optuna.Study, important: list[str]) -> list[str]:
    """Those that some proposal has side by side: of parameters that exclude each other, the most important."""
    kept: list[str] = []
    sets = [trial.params.keys() for trial in study.get_trials(deepcopy=False)]
    for name in important:
        if any(names >= {*kept, name} for names in sets):
            kept.append(name)
    return kept


def _calm(figure: go.Figure) -> go.Figure:
    """Optuna's figure in the page's style, as wide as the page (Optuna's many slices are wider), no label cut off."""
    margin = {"l": 60, "r": 20, "t": 56, "b": 50}
    figure.update_layout(template=go.layout.Template(), height=380, width=None, margin=margin, showlegend=False)
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    for index, trace in enumerate(figure.data if len(figure.data) <= 2 else ()):
        if "marker" in trace:
            trace.update(marker={"color": figures.colour(index)})
        if trace.type == "scatter":
            trace.update(line={"color": figures.colour(index)})
    return figure
