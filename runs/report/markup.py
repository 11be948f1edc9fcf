"""Small pieces of HTML. Everything is escaped unless it is `Html`, which only this package makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest

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


MOST_COLUMNS = 24
"""Columns that may hold numbers: each has a rule in the page's style, as a class on every cell would be much longer."""


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", css: str = "", ids: Sequence[str] = ()
) -> Html:
    """A table that scrolls sideways by itself. A column whose name starts with "#" holds numbers.

    Args:
        ids: of the rows, so that links find them.
    """
    numeric = [f"n{place}" for place, column in enumerate(columns, start=1) if column.startswith("#")]
    head = tag("thead", _line([column.removeprefix("#") for column in columns], "th"))
    body = tag("tbody", *(_line(row, "td", id) for row, id in zip_longest(rows, ids, fillvalue="")))
    title = tag("caption", caption) if caption else ""
    return tag("div", tag("table", title, head, body, css=" ".join([css, *numeric]).strip()), css="scroll")


def _line(cells: Sequence[object], name: str, id: str = "") -> Html:
    opening = f'<tr id="{escape(id)}">' if id else "<tr>"
    return Html(f"{opening}{join(tag(name, cell) for cell in cells)}</tr>")


def numeric_cells(*kinds: str) -> Html:
    """The selector of the cells that hold numbers, of the kinds th and td."""
    places = range(1, MOST_COLUMNS + 1)
    return Html(", ".join(f".n{place} {kind}:nth-child({place})" for kind in kinds for place in places))


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
    links = ", ".join(f'<a href="#trial-{number}">{number}</a>' for number in numbers)
    return Html(f"<span>{links}</span>")  # one item where a row of a table is a list


def interval(value: Interval | None, digits: int = 2, significant: int | None = None) -> Html:
    """Mean with its bounds beneath; a dash where there is nothing to show."""
    if value is None:
        return Html("—")

    def text(number: float) -> str:
        return significant_digits(number, significant) if significant else f"{number:.{digits}f}"

    if value.low is None or value.high is None:
        return html(text(value.mean))
    return join([text(value.mean), tag("small", f"{text(value.low)} to {text(value.high)}")])
