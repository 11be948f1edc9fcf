"""`naslab rank`, `naslab report` and `naslab export`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from naslab.errors import InputError
from naslab.runs.output import err, print_json, significant_digits
from naslab.runs.output import out as console

if TYPE_CHECKING:
    from naslab.nas.statistics import Interval
    from naslab.runs.ranking import Ranking
    from naslab.runs.rows import Row

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or a study's name.")]
Storage = Annotated[str | None, typer.Option(help="SQLite file or storage URL; default naslab-runs/naslab.db.")]
Beside = Annotated[
    list[str] | None,
    typer.Option(metavar="STUDY", help="Another study in the storage to stand in the ranking; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

WIDE = 120
"""Terminal columns from which the table shows everything."""


def rank(
    study: StudyName,
    beside: Beside = None,
    storage: Storage = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line per configuration, comma-separated.")] = False,
) -> None:
    """Rank the configurations of a study by metric per device hour."""
    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    from naslab.runs.beside import load_beside
    from naslab.runs.locate import open_study
    from naslab.runs.ranking import rank as rank_trials

    ledger = open_study(study, storage)
    ranking = rank_trials(ledger.study, ledger.trials(), load_beside(ledger, beside or ()))
    if as_json:
        print_json(ranking.to_dict())
    elif as_csv:
        _print_csv(ranking)
    else:
        _print_table(ranking)


def report(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(help="Default: report.html in the study's folder.")] = None,
    kernels: Annotated[Path | None, typer.Option(help="Show this table of `naslab bench kernels --json`.")] = None,
    beside: Beside = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file that answers which configuration is worth its hours."""
    from naslab.runs.beside import load_beside
    from naslab.runs.locate import open_study
    from naslab.runs.report import build_report
    from naslab.runs.report.kernels import load_table

    ledger = open_study(study, storage)
    table = None if kernels is None else load_table(kernels)
    made = build_report(ledger.study, ledger.trials(), load_beside(ledger, beside or ()), table)
    path = out or ledger.files / "report.html"
    made.write(path)
    if as_json:
        print_json(made.to_dict(path))
    else:
        print(made.answer.sentence)
        print(path)


def export(
    study: StudyName,
    top: Annotated[int, typer.Option(min=1, help="How many of the best ranked configurations.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Default: exports/ in the study's folder.")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Write the best configurations with their weights, each rebuilt and compared bit for bit first."""
    from naslab.runs.export import document as export_document
    from naslab.runs.export import export as export_best
    from naslab.runs.locate import open_study

    ledger = open_study(study, storage)
    made = export_best(ledger.study, ledger.trials(), ledger.files, out or ledger.files / "exports", top)
    if as_json:
        print_json(export_document(ledger.study.name, made))
        return
    for item in made:
        print(item.folder)
    err.print("each rebuilt in a new process, same output bit for bit; weights: the best seed by validation score")


def _print_table(ranking: Ranking) -> None:
    short = "GPU h" if ranking.cost_unit == "gpu_hours" else "CPU h"
    columns = {name: cell for name, cell in _columns(ranking, short).items() if console.width >= WIDE or cell[0]}
    front = ranking.objective.kind == "pareto"
    order = f"front of {ranking.metric} against {ranking.against}" if front else f"{ranking.metric} per {short}"
    table = Table(title=Text(f"{ranking.study}: {order}"), box=SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, justify="left" if name == "configuration" else "right", overflow="fold")
    for row in ranking.rows:
        table.add_row(*(Text(cell(row)) for _, cell in columns.values()))
    console.print(table)
    console.print(Text(_footnote(ranking)))
    if console.width < WIDE:
        console.print(f"A terminal of {WIDE} columns, --csv and `naslab report` show more columns.", highlight=False)


def _columns(ranking: Ranking, short: str) -> dict[str, tuple[bool, Callable[[Row], str]]]:
    """Each column's cell, and whether it stands on a narrow terminal, too."""
    metric, traded = ranking.metric, ranking.objective.cost is not None
    cost: dict[str, tuple[bool, Callable[[Row], str]]] = {
        ranking.against: (True, lambda row: "-" if row.cost is None else significant_digits(row.cost))
    }
    return {
        "rank": (True, lambda row: "-" if row.rank is None else str(row.rank)),
        "configuration": (True, lambda row: row.name),
        metric: (True, lambda row: _interval(row.metric, 4)),
        f"{short} a run": (True, lambda row: _interval(row.device_hours, 3)),
        **(cost if traded else {}),
        f"score per {short}": (not traded, lambda row: _interval(row.score, 4)),
        f"gain per {short}": (False, lambda row: _interval(row.gain, 3)),
        f"{short} of search": (False, lambda row: "-" if row.reference else significant_digits(row.search_hours)),
        f"{short} to floor": (False, lambda row: _interval(row.hours_to_floor, 3)),
        "Pareto": (True, lambda row: "yes" if row.pareto else ""),
        "seeds": (False, lambda row: str(len(row.seeds))),
    }


def _interval(value: Interval | None, digits: int) -> str:
    """Mean, and beneath it half the width of its interval, which is symmetric."""
    if value is None:
        return "-"
    mean = significant_digits(value.mean, digits)
    return mean if value.high is None else f"{mean}\n±{significant_digits(value.high - value.mean, 2)}"


def _footnote(ranking: Ranking) -> str:
    floor = "no floor" if ranking.floor is None else f"floor {ranking.floor:.2f} {ranking.metric}; - is below it"
    beside = [*ranking.controls, *([ranking.random] if ranking.random else [])]
    controls = "; ".join(f"{one.name} {one.metric.mean:.2f}" for one in beside) or "none"
    gain = "" if ranking.gain_over == "reference" else f" Gain over the control {ranking.gain_over}."
    marked = "".join(f" The reference breaks {'; '.join(map(str, row.breaks))}." for row in ranking.rows if row.breaks)
    refused = "".join(f"\nNot trained: {one.name}: {'; '.join(map(str, one.breaks))}" for one in ranking.refused)
    return f"{floor}. ±: 95 % interval over seeds. Controls: {controls}.{gain}{marked}{refused}"


def _print_csv(ranking: Ranking) -> None:
    rows = [_flat(row.to_dict()) for row in ranking.rows]
    writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else ["rank"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One level: intervals as three columns, lists joined by spaces."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("metric", "device_hours", "score", "gain_per_device_hour", "hours_to_floor"):
            flat |= {f"{key}_{part}": (value or {}).get(part) for part in ("mean", "low", "high")}
        elif key == "breaks":
            flat[key] = " ".join(check["constraint"] for check in value)
        elif key == "configuration":
            flat[key] = " ".join(f"{k}={'·'.join(v) if isinstance(v, list) else v}" for k, v in value.items())
        else:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat
