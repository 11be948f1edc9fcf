"""Formats the figures of models with their units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from naslab.runs.output import out

if TYPE_CHECKING:
    from naslab.efficiency import Latency


def print_rows(title: str, rows: Mapping[str, str]) -> None:
    """A table of names and values."""
    table = Table(title=title, show_header=False, caption="A multiply-add is 2 FLOPs; docs/efficiency.md")
    for _ in range(2):
        table.add_column(overflow="fold")  # no value is cut
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def flops_text(number: int | None) -> str:
    """Giga or mega, small numbers whole; a dash where there is none."""
    if number is None:
        return "-"
    if number < 1e5:
        return f"{number:,}"
    return f"{number / 1e9:,.3f} G" if number >= 1e8 else f"{number / 1e6:,.3f} M"


def short(number: int | None) -> str:
    """Four digits and a prefix, for narrow columns; a dash where there is none."""
    if not number:
        return "-" if number is None else "0"
    power = min((len(str(number)) - 1) // 3, 5)
    return f"{number / 1000**power:.4g}{' kMGTP'[power].strip()}"


def megabytes(number: int | None) -> str:
    """In MB (10^6 bytes); a dash where there is none."""
    return "-" if number is None else f"{number / 1e6:,.1f} MB"


def milliseconds(latency: Latency) -> str:
    """Median, its interval, and the spread."""
    median = f"{latency.median:.3f} ms ({latency.low:.3f} to {latency.high:.3f})"
    return f"{median}; p10 {latency.p10:.3f}, p90 {latency.p90:.3f}"


def noise(noisy: bool) -> dict[str, str]:
    """A row of warning where the machine was too noisy."""
    return {"warning": "noisy machine: the interval is wider than 5 %; time longer or elsewhere"} if noisy else {}
