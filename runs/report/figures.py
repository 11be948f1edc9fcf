"""The report's figures. Colours of text and grid are the page's, so that light and dark both read well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from naslab.nas.statistics import Interval
from naslab.runs.ranking import Ranking
from naslab.runs.rows import Row
from naslab.runs.spend import NO_ARM, SECONDS_PER_HOUR
from naslab.runs.trial import Trial

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#A08A00", "#8A8F98")
"""Okabe and Ito's colours, which colour-blind readers tell apart; their yellow is darker and their black lighter here,
so that both stand on a light and on a dark page."""
SHADES = {"meets": "#009E73", "undecided": "#E69F00", "below": "#CC79A7", "unjudged": "#0072B2"}
SYMBOLS = {"meets": "circle", "undecided": "triangle-up", "below": "x", "unjudged": "circle"}
FEW = 8
"""Rows that have a colour of their own; a legend of more would eat the plot."""
QUIET = "#94a3b8"
PHASES = ("search", "train", "evaluate", "compile", "profile", "other")


def colour(index: int) -> str:
    """The palette's colours in turn."""
    return PALETTE[index % len(PALETTE)]


def pareto(ranking: Ranking) -> go.Figure:
    """Metric against the ranking's cost, 95 % intervals as bars, the front as a line."""
    figure = figure_of(420, ranking.against, ranking.metric)
    front = sorted((row for row in ranking.rows if row.pareto), key=lambda row: row.cost or 0.0)
    figure.add_scatter(
        x=[row.cost for row in front],
        y=[row.metric.mean for row in front],
        mode="lines",
        line={"color": QUIET, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    reference = ranking.reference
    for kind in SHADES:
        rows = [row for row in ranking.rows if (row.verdict or "unjudged") == kind and row is not reference]
        _points(figure, [row for row in rows if row.cost is not None], kind, SHADES[kind], SYMBOLS[kind], ranking)
    own = [] if reference is None or reference.cost is None else [reference]
    _points(figure, own, "reference", PALETTE[0], "diamond", ranking)
    for control in ranking.controls:
        figure.add_hline(
            y=control.metric.mean,
            line={"color": QUIET, "width": 1, "dash": "dash"},
            annotation={"text": plain(control.name), "font": {"size": 11}},
        )
    return figure


def _points(figure: go.Figure, rows: Sequence[Row], name: str, shade: str, symbol: str, ranking: Ranking) -> None:
    """One trace of rows, filled where they are on the front; bars while there are few enough to see them."""
    if not rows:
        return
    hours, few = ranking.objective.cost is None, len(ranking.rows) <= 3 * FEW
    cost = "%{x:.4g} h" if hours else "%{x:.4g}"
    figure.add_scatter(
        x=[short(row.cost) for row in rows],
        y=[short(row.metric.mean, 8) for row in rows],
        error_x=_bars([row.device_hours for row in rows]) if hours and few else None,
        error_y=_bars([row.metric for row in rows]) if few else None,
        mode="markers",
        marker={
            "size": 12 if few else 8,
            "color": shade,
            "symbol": [symbol if row.pareto else f"{symbol}-open" for row in rows],
        },
        name=name,
        text=[plain(row.name) for row in rows],
        customdata=[", ".join(map(str, row.trials)) for row in rows],
        hovertemplate=f"%{{text}}<br>%{{y:.{ranking.decimals}f}} at {cost}<br>trials %{{customdata}}",
    )


def short(value: float | None, digits: int = 5) -> float | None:
    """With as many digits as a reader can see in a figure: hundreds of points are a good part of a page."""
    return None if value is None else float(f"{value:.{digits}g}")


def _bars(values: Sequence[Interval]) -> dict[str, Any]:
    halves = [0.0 if value.high is None else value.high - value.mean for value in values]
    return {"type": "data", "array": halves, "visible": any(halves), "thickness": 1.2, "width": 4}


def learning_curves(ranking: Ranking, trials: Mapping[int, Trial]) -> go.Figure | None:
    """Validation metric by rung against hours so far, a line a trial; None without rungs.

    The first rows have a colour each; proposals, and all other rows, are one quiet group each.
    """
    figure = figure_of(400, f"{ranking.unit}s since the run began", f"validation {ranking.metric}")
    _curves(figure, [t for t in trials.values() if t.job.role == "proposal"], ranking, QUIET, "proposals", 1)
    own = ranking.own_rows
    rest = [trials[number] for row in own[FEW:] for number in row.trials]
    _curves(figure, rest, ranking, QUIET, f"{len(own) - FEW} other rows", 1)
    for index, row in enumerate(own[:FEW]):
        group = [trials[number] for number in row.trials]
        _curves(figure, group, ranking, colour(index), row.name, 2)
    return figure if figure.data else None


def _curves(figure: go.Figure, group: Sequence[Trial], ranking: Ranking, shade: str, name: str, width: int) -> None:
    """The trials of one group as one trace, a gap between them."""
    x: list[float | None] = []
    y: list[float | None] = []
    told: list[str] = []
    metric, score = ranking.metric, f"%{{y:.{ranking.decimals}f}}"
    for trial in group:
        rungs = [rung for rung in trial.rungs if metric in rung.scores]
        before = sum(trial.carried_seconds.values()) if trial.reused else 0.0
        hours = ((before + rung.device_seconds) / SECONDS_PER_HOUR for rung in rungs)
        x += [*map(short, hours), None]
        y += [*(round(rung.scores[metric], ranking.decimals) for rung in rungs), None]
        told += [*(f"epoch {rung.epoch}, trial {trial.number}" for rung in rungs), ""]
    if any(value is not None for value in x):
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", line={"color": shade, "width": width}, marker={"size": 2 + 2 * width},
            opacity=0.5 if width == 1 else 1, name=plain(name), text=told if width > 1 else None,
            hovertemplate=f"{score} at %{{text}}" if width > 1 else score,
        )  # fmt: skip


def alphas(search: Mapping[str, Any], chain: str) -> go.Figure:
    """Architecture parameters of one chain against the epoch: one panel a layer, one line a candidate."""
    trajectory, candidates = search["trajectory"], search["candidates"][chain]
    layers = len(trajectory[0]["alphas"][chain])
    columns = min(layers, 3)
    lines = -(-layers // columns)
    titles = [f"layer {layer + 1}" for layer in range(layers)]
    figure = make_subplots(
        lines, columns, shared_xaxes=True, shared_yaxes=True, subplot_titles=titles,
        horizontal_spacing=0.04, vertical_spacing=0.5 / (lines + 2),
    )  # fmt: skip
    for layer in range(layers):
        for index, candidate in enumerate(candidates):
            figure.add_scatter(
                x=[epoch["epoch"] for epoch in trajectory],
                y=[epoch["alphas"][chain][layer][index] for epoch in trajectory],
                mode="lines",
                line={"color": colour(index), "width": 1.8},
                name=plain(candidate),
                legendgroup=candidate,
                showlegend=layer == 0,
                row=layer // columns + 1,
                col=layer % columns + 1,
                hovertemplate="%{y:.4f} at epoch %{x}",
            )
    figure.update_xaxes(title_text="epoch", row=lines)
    return _calm(figure, 130 + 170 * lines)


def decisiveness(searches: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Mean entropy of the mixing weights and share of the parameter-free candidates, by epoch and search."""
    figure = make_subplots(1, 2, subplot_titles=["entropy (1: undecided)", "share of skips and poolings"])
    for index, (name, search) in enumerate(searches.items()):
        epochs = [epoch["epoch"] for epoch in search["trajectory"]]
        entropies = [_mean_over_layers(epoch["entropy"]) for epoch in search["trajectory"]]
        skips = [epoch["skip_share"] for epoch in search["trajectory"]]
        for column, values in enumerate((entropies, skips), start=1):
            figure.add_scatter(
                x=epochs, y=values, mode="lines+markers", line={"color": colour(index)}, name=plain(name),
                legendgroup=name, showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title_text="epoch")
    return _calm(figure, 320)


def _mean_over_layers(entropy: Mapping[str, Sequence[float]]) -> float:
    values = [value for layers in entropy.values() for value in layers]
    return sum(values) / len(values)


def spend(trials: Sequence[Trial], hours: str) -> go.Figure:
    """Device hours by arm, stacked by phase."""
    arms = sorted({t.job.arm or NO_ARM for t in trials}, key=lambda arm: (arm != NO_ARM, arm))
    figure = figure_of(160 + 42 * len(arms), hours, "")
    for index, phase in enumerate(PHASES):
        totals = [
            sum(t.seconds.get(phase, 0.0) for t in trials if (t.job.arm or NO_ARM) == arm)  # type: ignore[call-overload]
            / SECONDS_PER_HOUR
            for arm in arms
        ]
        if any(totals):
            figure.add_bar(
                y=[plain(arm) for arm in arms], x=totals, orientation="h", name=phase,
                marker={"color": colour(index)}, hovertemplate="%{x:.4g} h",
            )  # fmt: skip
    return figure.update_layout(barmode="stack", bargap=0.35)


def figure_of(height: int, x: str, y: str) -> go.Figure:
    """An empty figure in the page's style, its axes named."""
    figure = go.Figure()
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return _calm(figure, height)


def _calm(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        margin={"l": 60, "r": 20, "t": 64, "b": 50},
        legend={"orientation": "h", "yref": "container", "y": 1.0, "yanchor": "top", "x": 0, "traceorder": "normal"},
        hoverlabel={"namelength": -1},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def plain(text: str) -> str:
    """Plotly reads a little HTML in its labels; a name of the user's is to be shown as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
