"""Small pieces of HTML. Everything is escaped unless it is `Html`, which only this package makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import plotly.graph_objects as go

from naslab.nas.statistics import Interval
from naslab.runs.output import significant_digits


class Html(str):
    """Text that is markup already."""


def html(value: object) -> Html:
    """`value` ready to stand in the page: escaped, unless it is markup."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name: str, *content: object, css: str = "") -> Html:
    """An element around `content`."""
    opening = f'{name} class="{escape(css)}"' if css else name
    return Html(f"<{opening}>{join(content)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """The parts one after the other."""
    return Html("".join(html(part) for part in parts))


def note(text: object) -> Html:
    """A quiet line of explanation."""
    return tag("p", text, css="note")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", css: str = "") -> Html:
    """A table that scrolls sideways by itself. A column whose name starts with "#" holds numbers."""
    numeric = [column.startswith("#") for column in columns]

    def line(cells: Sequence[object], name: str) -> Html:
        return tag(
            "tr", *(tag(name, cell, css="n" if right else "") for cell, right in zip(cells, numeric, strict=True))
        )

    head = tag("thead", line([column.removeprefix("#") for column in columns], "th"))
    body = tag("tbody", *(line(row, "td") for row in rows))
    title = tag("caption", caption) if caption else ""
    return tag("div", tag("table", title, head, body, css=css), css="scroll")


def plot(figure: go.Figure, label: str) -> Html:
    """A Plotly figure, drawn by the page's script in the reader's colours; `label` is its text alternative."""
    height = figure.layout.height or 380
    spec = figure.to_json().replace("<", "\\u003c")
    return Html(
        f'<div class="plot" role="img" aria-label="{escape(label)}" style="height:{int(height)}px"></div>'
        f'<script type="application/json" class="figure">{spec}</script>'
    )


def trial_links(numbers: Iterable[int]) -> Html:
    """Trial numbers, each a link to its line in the ledger table."""
    links = (f'<a href="#trial-{number}">{number}</a>' for number in numbers)
    return Html(f'<span class="trials">{", ".join(links)}</span>')


def interval(value: Interval | None, digits: int = 2, significant: int | None = None) -> Html:
    """Mean with its bounds beneath; a dash where there is nothing to show."""
    if value is None:
        return Html("—")

    def text(number: float) -> str:
        return significant_digits(number, significant) if significant else f"{number:.{digits}f}"

    if value.low is None or value.high is None:
        return html(text(value.mean))
    return join([text(value.mean), tag("span", f"{text(value.low)} to {text(value.high)}", css="bounds")])
