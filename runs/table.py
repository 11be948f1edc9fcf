"""`naslab rank` on a terminal: the answer in words, failures, then the table in the available width.

A value is never broken: columns that do not fit are left out, the least important first, and where even the first few
do not, each configuration becomes a short list of its own.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from naslab.nas.statistics import Interval
from naslab.runs.output import significant_digits
from naslab.runs.predicted_hours import fit_words, hours_words
from naslab.runs.ranking import Ranking
from naslab.runs.rows import Row

NAME = "configuration"
NARROWEST_NAME = 16
"""Characters that a name gets at least beside the figures; it may be folded, as it is no value."""
PADDING = 3
HELD = "\u2060"
"""Stands for a space at which no line may end."""
VALUE = re.compile(
    r"[-+\de.]+(?: higher| lower)? \[[^\]]*\]|\w+ \d[\d.,]*(?=[;.] )|\w+: \S+ > \S+|\d+ %(?: interval)?|"
    r"\S+ (?:GPU )?hours predicted on \S+|\(\S+ to \S+\)"
)


@dataclass(frozen=True)
class Column:
    """A column's heading, its cells, and how soon it is left out (0: never)."""

    title: str
    cell: Callable[[Row], str]
    spare: int = 0

    def width(self, rows: Sequence[Row]) -> int:
        """Of its widest word and its widest cell line."""
        lines = [line for row in rows for line in self.cell(row).split("\n")]
        return max(map(len, [*self.title.split(), *lines]))


def print_ranking(ranking: Ranking, console: Console) -> None:
    """Print the answer, then the table."""
    for line in spoken(ranking):
        _print_wrapped(line, console)
    if not ranking.rows:
        return
    columns = fitting(columns_of(ranking), ranking.rows, console.width)
    if columns:
        console.print(_table(ranking, columns, console.width))
    else:
        _print_lists(ranking, console)
    for line in footnote(ranking).splitlines():
        _print_wrapped(line, console)
    if len(columns) < len(columns_of(ranking)):
        _print_wrapped("A wider terminal, --csv and `naslab report` show more columns.", console)


def _print_wrapped(text: str, console: Console) -> None:
    """Print `text` over as many lines as it needs; a number stays with its name and its interval."""
    held = VALUE.sub(lambda found: found.group().replace(" ", HELD), text)
    for line in textwrap.wrap(held, console.width, break_long_words=False, break_on_hyphens=False):
        console.print(Text(line.replace(HELD, " ")), soft_wrap=True)


def spoken(ranking: Ranking) -> list[str]:
    """The lines above the table: the headline, the other findings, and what to doubt."""
    said = ranking.answer
    others = [finding.text for finding in said.findings if finding.text != said.sentence]
    return [said.sentence, *(f"- {text}" for text in (*others, *ranking.doubts))]


def columns_of(ranking: Ranking) -> list[Column]:
    """Every column, in order."""
    short = f"{ranking.unit.removesuffix(' hour')} h"
    traded = ranking.objective.cost is not None
    per = "gain" if ranking.by == "gain" else "score"
    cost = Column(ranking.against, lambda row: "-" if row.cost is None else significant_digits(row.cost), 1)
    return [
        Column("rank", lambda row: "-" if row.rank is None else str(row.rank)),
        Column(NAME, lambda row: row.name),
        Column(ranking.metric, lambda row: plus_minus(row.metric, 4)),
        *([] if ranking.floor is None else [Column("floor", lambda row: row.verdict or "-", 2)]),
        Column(f"{short} a run", lambda row: plus_minus(row.device_hours, 3), 1),
        *([cost] if traded else []),
        *([] if traded else [Column(f"{per} per {short}", lambda row: plus_minus(row.score, 4), 3)]),
        Column("Pareto", lambda row: "yes" if row.pareto else "", 4),
        *([] if ranking.by == "gain" else [Column(f"gain per {short}", lambda row: plus_minus(row.gain, 3), 6)]),
        Column(f"{short} of search", lambda row: "-" if row.reference else significant_digits(row.search_hours), 7),
        Column(f"{short} to floor", lambda row: plus_minus(row.hours_to_floor, 3), 8),
        Column("seeds", lambda row: str(len(row.seeds)), 5),
        *(_predicted_column(device) for device in ranking.predicted_hours),
    ]


def _predicted_column(device: str) -> Column:
    """Hours of a run on a device that was not at hand: marked, with their interval, the first column to give way."""

    def cell(row: Row) -> str:
        hours = row.predicted_hours.get(device)
        if hours is None or hours["hours"] is None:
            return "-"
        mean, low, high = (significant_digits(hours[key], 2) for key in ("hours", "low", "high"))
        return f"≈{mean}\n{low}–{high}"

    return Column(f"{device} h, predicted", cell, 9)


def fitting(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Column]:
    """The columns that `width` has room for, none where it has not even room for those never left out."""
    for limit in sorted({column.spare for column in columns}, reverse=True):
        kept = [column for column in columns if column.spare <= limit]
        if sum(_least(column, rows) + PADDING for column in kept) + PADDING <= width:
            return kept
    return []


def _least(column: Column, rows: Sequence[Row]) -> int:
    return NARROWEST_NAME if column.title == NAME else column.width(rows)


def _table(ranking: Ranking, columns: Sequence[Column], width: int) -> Table:
    table = Table(title=Text(f"{ranking.study}: {_order(ranking)}"), box=SIMPLE_HEAD)
    for column, room in zip(columns, _widths(columns, ranking.rows, width), strict=True):
        if column.title == NAME:
            table.add_column(column.title, overflow="fold", width=room)
        else:
            table.add_column(column.title, justify="right", width=room)
    for row in ranking.rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    return table


def _widths(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[int]:
    """The width of each column: headings in one line where there is room, the rest of it for the names.

    Given to the table, which else shrinks whatever is widest and cuts off what then does not fit.
    """
    room = width - PADDING * (len(columns) + 1)
    least = [_least(column, rows) for column in columns]
    full = [
        max(one, 0 if column.title == NAME else len(column.title)) for one, column in zip(least, columns, strict=True)
    ]
    found = full if sum(full) <= room else least
    left = room - sum(found)
    longest = max(len(row.name) for row in rows)
    return [
        min(max(one, longest), one + left) if column.title == NAME else one
        for one, column in zip(found, columns, strict=True)
    ]


def _print_lists(ranking: Ranking, console: Console) -> None:
    for row in ranking.rows:
        console.print()
        columns = columns_of(ranking)
        for column in (*columns[:5], *columns[len(columns) - len(ranking.predicted_hours) :]):
            value = column.cell(row).replace("\n", " ")
            _print_wrapped(f"{column.title} {value}", console)
    console.print()


def _order(ranking: Ranking) -> str:
    if ranking.objective.kind == "pareto":
        return f"front of {ranking.metric} against {ranking.against}"
    return f"{'gain' if ranking.by == 'gain' else ranking.metric} per {ranking.unit}"


def plus_minus(value: Interval | None, digits: int) -> str:
    """Mean, and beneath it half the width of its interval, which is symmetric."""
    if value is None:
        return "-"
    mean = significant_digits(value.mean, digits)
    return mean if value.high is None else f"{mean}\n±{significant_digits(value.high - value.mean, 2)}"


def footnote(ranking: Ranking) -> str:
    """Floor and margin, what the intervals are, controls, and what was not trained."""
    controls = "; ".join(f"{one.name} {ranking.shown(one.metric.mean)}" for one in ranking.baselines) or "none"
    gain = "" if ranking.gain_over == "reference" else f" Gain over the control {ranking.gain_over}."
    refused = "".join(f"\nNot trained: {one.name}: {'; '.join(map(str, one.breaks))}" for one in ranking.refused)
    predicted = "".join(f"\n{line}" for line in predicted_lines(ranking))
    return f"{floor_in_words(ranking)} ±: 95 % interval over seeds. Controls: {controls}.{gain}{refused}{predicted}"


def predicted_lines(ranking: Ranking) -> list[str]:
    """For each device that the study names: the hours of a run and of all trainings so far, and what does not fit."""
    lines, bases = [], dict[str, None]()
    for device, found in ranking.predicted_hours.items():
        whole = found["study"]
        lines.append(f"All {found['trainings']} trainings so far: {hours_words(device, whole)}.")
        run = ranking.reference and ranking.reference.predicted_hours.get(device)
        if run and run["hours"] is not None:
            lines[-1] = f"A run of the reference: {hours_words(device, run)}. {lines[-1]}"
        lines += [f"{device}: {text}." for text in [fit_words(whole["memory"])] if text]
        bases |= {} if whole["hours"] is None else {whole["basis"]: None}
    as_reference = max((found["as_reference"] for found in ranking.predicted_hours.values()), default=0)
    if as_reference and bases:
        lines.append(f"{as_reference} of the trainings count as the reference's, as their models were not profiled.")
    return lines + [f"Basis of the predictions: {basis}." for basis in bases]


def floor_in_words(ranking: Ranking) -> str:
    """The floor, whose it is, and what its verdicts mean."""
    if ranking.floor is None:
        return "No floor."
    whose = "" if ranking.floor_of in ("reference", "given") else f" (of {ranking.floor_of})"
    return (
        f"floor {ranking.shown(ranking.floor)} {ranking.metric}{whose}, margin {ranking.margin:.3g}: a row meets it "
        "where the interval of its difference lies above minus the margin, and has no rank where it lies below."
    )
