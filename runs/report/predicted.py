"""Predicted hours on the devices that the study names, separate from measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from naslab.runs.output import significant_digits
from naslab.runs.predicted_hours import fit_words
from naslab.runs.report.markup import Html, html, join, note, table, tag
from naslab.runs.report.section import Findings, Section, empty
from naslab.runs.table import predicted_lines


def predicted(found: Findings) -> Section:
    """Hours of a run of each configuration, and of all trainings so far, on each device."""
    id, title, studied = "predicted", "Predicted hours on other devices", found.ranking.predicted_hours
    if not studied:
        return empty(id, title, "The study names no device to predict hours for (predict_for).")
    rows = [
        [
            "—" if row.rank is None else row.rank,
            row.name,
            *(_cell(row.predicted_hours.get(device)) for device in studied),
        ]
        for row in found.ranking.own_rows
    ]
    columns = ["#Rank", "Configuration", *(f"#{device}, h predicted" for device in studied)]
    text = (
        "Nothing here was measured: counted work at the rate that measured steps, or published runs, had; small "
        "figures are the interval that a back-test earned. A run is one full training."
    )
    whole = map(note, predicted_lines(found.ranking))
    return Section(id, title, join([table(columns, rows, css="sortable"), note(text), *whole]))


def _cell(hours: Mapping[str, Any] | None) -> Html:
    if hours is None:
        return html("—")
    beneath = [tag("small", text, css="words") for text in [fit_words(hours["memory"])] if text]
    if hours["hours"] is None:
        return join(["—", tag("small", hours["refused"], css="words"), *beneath])
    mean, low, high = (significant_digits(hours[key], 2) for key in ("hours", "low", "high"))
    return join([mean, tag("small", f"{low} to {high}"), *beneath])
