"""`naslab rank`, `naslab report` and `naslab export`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from naslab.errors import InputError
from naslab.runs.commands.model_options import Json
from naslab.runs.commands.study_options import Storage, StudyName
from naslab.runs.output import err, print_json, print_whole
from naslab.runs.output import out as console

if TYPE_CHECKING:
    from naslab.runs.ranking import Ranking

Beside = Annotated[
    list[str] | None,
    typer.Option(metavar="STUDY", help="Also rank this study of the storage; repeatable."),
]

INTERVALS = (
    "metric", "device_hours", "score", "gain_per_device_hour", "hours_to_floor", "difference", "wall_hours"
)  # fmt: skip


def rank(
    study: StudyName,
    beside: Beside = None,
    storage: Storage = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row per configuration.")] = False,
) -> None:
    """Rank the configurations of a study by metric per device hour."""
    if as_json and as_csv:
        raise InputError("--json and --csv: choose one")
    from naslab.runs.beside import load_beside
    from naslab.runs.locate import open_study
    from naslab.runs.ranking import rank as rank_trials
    from naslab.runs.table import print_ranking

    ledger = open_study(study, storage)
    ranking = rank_trials(ledger.study, ledger.trials(), load_beside(ledger, beside or ()))
    if as_json:
        print_json(ranking.to_dict())
    elif as_csv:
        _print_csv(ranking)
    else:
        print_ranking(ranking, console)


def report(
    study: StudyName,
    out: Annotated[Path | None, typer.Option(help="Default: report.html in the study's folder.")] = None,
    kernels: Annotated[Path | None, typer.Option(help="Include this output of `naslab bench kernels --json`.")] = None,
    beside: Beside = None,
    storage: Storage = None,
    as_json: Json = False,
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
    top: Annotated[int, typer.Option(min=1, help="How many of the best configurations.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Default: exports/ in the study's folder.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Export the best configurations with their weights; each is first rebuilt and compared bit for bit."""
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
    err.print(
        "each gave the same output bit for bit in a new process; weights of the seed with the best validation score"
    )


def _print_csv(ranking: Ranking) -> None:
    rows = [_flat(row.to_dict()) for row in ranking.rows]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["rank"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    print_whole(text.getvalue())


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One level: intervals as three columns, lists joined by spaces."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key in INTERVALS:
            flat |= {f"{key}_{part}": (value or {}).get(part) for part in ("mean", "low", "high")}
        elif key == "predicted_hours":
            flat |= {
                f"{key}_{device}_{part}": hours[part]
                for device, hours in value.items()
                for part in ("hours", "low", "high")
            }
        elif key == "breaks":
            flat[key] = " ".join(check["constraint"] for check in value)
        elif key == "configuration":
            flat[key] = " ".join(f"{k}={'·'.join(map(str, v)) if isinstance(v, list) else v}" for k, v in value.items())
        else:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat
