"""The ranking as a table that a reader can sort, filter and search."""

from __future__ import annotations

from collections.abc import Sequence

from naslab.runs.constraints import Check
from naslab.runs.output import significant_digits
from naslab.runs.ranking import Ranking
from naslab.runs.report.markup import Html, html, interval, join, note, table, tag, trial_links
from naslab.runs.report.section import Findings, Section, empty
from naslab.runs.rows import Row
from naslab.runs.table import floor_in_words

FEW = 8
"""Rows up to which a table needs no search."""


def leaderboard(found: Findings) -> Section:
    """The ranking as a table."""
    id, title, ranking = "leaderboard", "Leaderboard", found.ranking
    if not ranking.rows:
        return empty(id, title, "No reference or finalist has finished yet.")
    short = f"{ranking.unit.removesuffix(' hour')} h"
    per = "Gain" if ranking.by == "gain" else "Score"
    columns = ["#Rank", "Configuration", "Floor", f"#{ranking.metric}", "#Over the floor", f"#{short} a run",
               f"#{per} per {short}", f"#Gain per {short}", f"#{short} of search", f"#{short} to floor", "Pareto",
               "Trials"]  # fmt: skip
    return Section(
        id,
        title,
        join(
            [
                _tools(ranking) if len(ranking.rows) > FEW else "",
                table(columns, [_row(row, ranking) for row in ranking.rows], css="leaderboard sortable"),
                note(f"{_order(ranking)} {_floor(ranking)}"),
                note(
                    f"Small figures are 95 % intervals over seeds. The gain is over {_base(ranking)}, and charges the "
                    "search. A click on a heading sorts by it."
                ),
                *(note(f"Not trained: {one.name} breaks {_broken(one.breaks)}.") for one in ranking.refused),
            ]
        ),
    )


def _tools(ranking: Ranking) -> Html:
    """Search and filter, which the page's script answers to."""
    kinds = [kind for kind in ("meets", "undecided", "below") if any(row.verdict == kind for row in ranking.rows)]
    options = join(Html(f'<option value="{kind}">{kind}</option>') for kind in kinds)
    return Html(
        '<p class="tools"><input type="search" placeholder="Search configurations" aria-label="Search configurations">'
        f'<select aria-label="Filter"><option value="">all rows</option>{options}'
        '<option value="●">Pareto front</option></select><output></output></p>'
    )


def _row(row: Row, ranking: Ranking) -> list[object]:
    values = row.configuration.as_dict().items()
    lines = [tag("small", f"{key}: {_words(value)}") for key, value in values]
    broken = [tag("small", f"breaks {_broken(row.breaks)}, so it has no rank")] if row.breaks else []
    waited = [tag("small", "waited for its cores")] if row.contended else []
    return [
        row.rank if row.rank is not None else "—",
        join([tag("strong", row.name), *lines, *broken]),
        tag("span", row.verdict, css=f"verdict {row.verdict}") if row.verdict else "—",
        interval(row.metric, ranking.decimals),
        interval(None if row is ranking.reference else row.difference, ranking.decimals),
        join([interval(row.device_hours, significant=3), *waited]),
        interval(row.score, significant=4),
        interval(row.gain, significant=3),
        significant_digits(row.search_hours) if row.arms and not row.reference else "—",
        interval(row.hours_to_floor, significant=3),
        "●" if row.pareto else "",
        trials_of(row, ranking.study),
    ]


def trials_of(row: Row, study: str) -> Html:
    """Links to this report's ledger, or plain numbers of another study's."""
    return trial_links(row.trials) if row.study == study else html(f"{row.study}: {', '.join(map(str, row.trials))}")


def _order(ranking: Ranking) -> str:
    if ranking.objective.kind == "pareto":
        return (
            f"Rank is the number of the Pareto front of mean {ranking.metric} on the test split against "
            f"{ranking.against}: 1 is what nothing is at once as good and as cheap as."
        )
    what = "gain over the base, search charged," if ranking.by == "gain" else f"{ranking.metric} on the test split"
    return (
        f"First what meets the floor, then the undecided, then what is below; each by {what} per {ranking.unit} of one "
        "run. Configurations share a rank where the interval of their difference holds zero."
    )


def _floor(ranking: Ranking) -> str:
    words = floor_in_words(ranking)
    return f"{words[0].upper()}{words[1:]}"


def _base(ranking: Ranking) -> str:
    return "the reference" if ranking.gain_over == "reference" else f"the control {ranking.gain_over}"


def _broken(checks: Sequence[Check]) -> str:
    return "; ".join(map(str, checks))


def _words(value: object) -> str:
    return " · ".join(map(str, value)) if isinstance(value, list) else str(value)
