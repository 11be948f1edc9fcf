"""A ranking as a table of text or HTML, from the document of `naslab rank --json`: what a notebook shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def ranking_text(document: Mapping[str, Any]) -> str:
    """Columns in line, as many characters wide as their longest cell."""
    table = [_head(document), *map(_cells, document["rows"])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([document["answer"]["sentence"], _title(document), *lines, _foot(document)])


def ranking_html(document: Mapping[str, Any]) -> str:
    """One `table` element with a caption."""
    head = _row("th", _head(document))
    body = "".join(_row("td", _cells(row)) for row in document["rows"])
    caption = f"<caption>{escape(_title(document))}<br>{escape(_foot(document))}</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _title(document: Mapping[str, Any]) -> str:
    return f"{document['study']}: {len(document['rows'])} configurations"


def _head(document: Mapping[str, Any]) -> list[str]:
    hours = document["cost_unit"].replace("_", " ").replace("gpu", "GPU").replace("cpu", "CPU")
    if document["clock"] == "core":
        hours = "core hours"
    metric = document["metric"]
    return ["rank", "configuration", metric, f"{hours} a run", f"{metric} per {hours[:-1]}", "Pareto", "seeds", "name"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    values = ", ".join(f"{name}={_value(value)}" for name, value in row["configuration"].items() if name != "space")
    return [
        "-" if row["rank"] is None else str(row["rank"]),
        values,
        _interval(row["metric"]),
        _interval(row["device_hours"]),
        _interval(row["score"]),
        "yes" if row["pareto"] else "",
        str(len(row["seeds"])),
        row["name"],
    ]


def _value(value: object) -> str:
    if isinstance(value, list):
        return "·".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(interval: Mapping[str, float | None] | None) -> str:
    if interval is None or interval["mean"] is None:
        return "-"
    mean, high = interval["mean"], interval["high"]
    return f"{mean:.4g}" if high is None else f"{mean:.4g} ± {high - mean:.2g}"


def _foot(document: Mapping[str, Any]) -> str:
    floor = document["floor"]
    margin = document["margin"]
    below = (
        "no floor"
        if floor is None
        else f"floor {floor:.4g}, margin {margin:.3g}: rows marked - are shown to be worse, or have no rank"
    )
    return f"{below}; ±: 95 % interval over seeds"
