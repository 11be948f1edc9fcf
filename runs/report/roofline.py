"""The roofline plot: a device's measured ceilings, and what profiled models reach under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from naslab.efficiency import EfficiencyProfile
from naslab.errors import InputError
from naslab.runs.output import significant_digits
from naslab.runs.report.figures import FEW, QUIET, colour, figure_of, plain, short
from naslab.runs.report.markup import Html, join, note, plot, table, trial_links

HOW = "the device is not calibrated for it: run `naslab devices calibrate`, then profile again"


def drawable(profile: Mapping[str, Any]) -> bool:
    """Whether a profile was placed under measured ceilings and so can be drawn."""
    roofline = profile.get("roofline") or {}
    timed = profile.get("latency_ms") is not None and roofline.get("intensity", 0) > 0
    return bool(timed and roofline.get("peak_flops_per_second") and roofline.get("bytes_per_second"))


def achieved_flops_per_second(profile: Mapping[str, Any]) -> float:
    """Contractions of the forward over the median latency."""
    return float(profile["flops"]["forward"] / (profile["latency_ms"]["median"] / 1e3))


def roofline(profiles: Sequence[tuple[str, Mapping[str, Any]]], *, by_kind: bool = False) -> go.Figure:
    """Log-log: FLOP/s against FLOPs a byte, the roof of each device and format, and a point for each profile.

    Args:
        profiles: names and `profile` documents, each `drawable`.
        by_kind: show the kinds of work of each profile as open marks on the roof, where their bound is.
    """
    figure = figure_of(440, "FLOPs per byte moved", "GFLOP per second")
    roofs: dict[tuple[str, float, float], str] = {}
    for _, profile in profiles:
        found = profile["roofline"]
        key = (found["device"], found["peak_flops_per_second"], found["bytes_per_second"])
        roofs.setdefault(key, f"{found['device']}, {profile['dtype']}")
    marks = [profile["roofline"]["intensity"] for _, profile in profiles]
    for (_, peak, copy), label in roofs.items():
        figure.add_scatter(**_roof(peak, copy, label, marks))
    for index, (name, profile) in enumerate(profiles[:FEW]):
        figure.add_scatter(**_point(name, profile, index))
        if by_kind:
            figure.add_scatter(**_kinds(profile, index))
    if len(profiles) > FEW:
        figure.add_scatter(**_others(profiles[FEW:]))
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return figure


def roofline_body(profiles: Sequence[tuple[str, int, Mapping[str, Any]]]) -> Html:
    """Picture and table for names, trial numbers and `drawable` documents."""
    columns = ["Configuration", "#FLOPs a byte", "#Ridge", "#GFLOP/s", "#Bound ms", "#Latency ms", "#Explained",
               "Trials"]  # fmt: skip
    text = (
        "Ceilings measured on this device. The bound is the least time of the counted operations under them, explained "
        "its share of the measured latency; the rest is launches, caches and kernels that fall short of the ceilings."
    )
    figure = roofline([(name, profile) for name, _, profile in profiles])
    rows = [[name, *_position(profile), trial_links([number])] for name, number, profile in profiles]
    return join([plot(figure, "profiles under the roofline"), table(columns, rows), note(text)])


def _position(profile: Mapping[str, Any]) -> list[object]:
    place = profile["roofline"]
    values = (place["intensity"], place["ridge"], achieved_flops_per_second(profile) / 1e9, place["bound_ms"])
    latency = profile["latency_ms"]["median"]
    return [*map(significant_digits, (*values, latency)), f"{place['explained']:.0%}"]


def write_roofline(measured: EfficiencyProfile, path: Path) -> None:
    """Write one profile's picture as an HTML file that opens without a network.

    Raises:
        InputError: there are no measured ceilings for it, or the file cannot be written.
    """
    document = measured.to_dict()
    if not drawable(document):
        raise InputError(f"--plot: no roofline for {measured.target}: {HOW}")
    figure = roofline([(measured.target, document)], by_kind=True)
    explained = document["roofline"]["explained"]
    title = f"{measured.target}, batch of {measured.batch_size}: the roofline explains {explained:.0%} of its time"
    figure.update_layout(title=plain(title), height=640, template="plotly_white", margin={"t": 120})
    try:
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise InputError(f"--plot: {path}: cannot be written: {error.strerror or error}") from None


def _roof(peak: float, copy: float, label: str, marks: Sequence[float]) -> dict[str, Any]:
    ridge = peak / copy
    left, right = min(ridge, *marks) / 10, max(ridge, *marks) * 10
    return {
        "x": [left, ridge, right],
        "y": [left * copy / 1e9, peak / 1e9, peak / 1e9],
        "mode": "lines",
        "line": {"color": QUIET, "width": 2},
        "name": plain(label),
        "hovertemplate": f"copy {copy / 1e9:.1f} GB/s, products {peak / 1e9:.1f} GFLOP/s",
    }


def _point(name: str, profile: Mapping[str, Any], index: int) -> dict[str, Any]:
    found = profile["roofline"]
    return {
        "x": [found["intensity"]],
        "y": [achieved_flops_per_second(profile) / 1e9],
        "mode": "markers",
        "marker": {"size": 12, "color": colour(index)},
        "name": plain(name),
        "hovertemplate": f"%{{y:.4g}} GFLOP/s at %{{x:.3g}} FLOPs a byte<br>roof explains {found['explained']:.0%}",
    }


def _others(profiles: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """All further points as one: a legend of each would eat the plot."""
    return {
        "x": [short(profile["roofline"]["intensity"]) for _, profile in profiles],
        "y": [short(achieved_flops_per_second(profile) / 1e9) for _, profile in profiles],
        "mode": "markers",
        "marker": {"size": 8, "color": QUIET},
        "name": f"{len(profiles)} others",
        "text": [plain(name) for name, _ in profiles],
        "hovertemplate": "%{text}: %{y:.4g} GFLOP/s at %{x:.3g} FLOPs a byte",
    }


def _kinds(profile: Mapping[str, Any], index: int) -> dict[str, Any]:
    found = profile["roofline"]
    rows = [(kind, row) for kind, row in profile["by_kind"].items() if row["flops"] and row["bytes"]]
    places = [row["flops"] / row["bytes"] for _, row in rows]
    return {
        "x": places,
        "y": [min(found["peak_flops_per_second"], x * found["bytes_per_second"]) / 1e9 for x in places],
        "mode": "markers",
        "marker": {"size": 9, "color": colour(index), "symbol": "circle-open"},
        "text": [plain(kind) for kind, _ in rows],
        "name": "bounds of its kinds of work",
        "hovertemplate": "%{text}: at most %{y:.4g} GFLOP/s at %{x:.3g} FLOPs a byte",
    }
