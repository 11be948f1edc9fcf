"""`naslab studies`: all studies of a storage; `rename` and `delete` for one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from naslab.errors import InputError
from naslab.runs.commands.model_options import Json
from naslab.runs.commands.study_options import Storage
from naslab.runs.output import err, out, print_json

if TYPE_CHECKING:
    from naslab.runs.studies import Overview

group = typer.Typer(help="List, rename or delete the studies of a storage.")


@group.callback(invoke_without_command=True)
def _group(context: typer.Context, storage: Storage = None, as_json: Json = False) -> None:
    """All studies of a storage, and the state of each."""
    if context.invoked_subcommand is None:
        studies(storage, as_json)
    elif as_json or storage is not None:
        given = "--json" if as_json else "--storage"
        raise InputError(f"{given}: write it after the subcommand: naslab studies {context.invoked_subcommand} {given}")


def studies(storage: str | None = None, as_json: bool = False) -> None:
    """Print the studies of the storage."""
    from naslab.runs.storage_url import shown, storage_url
    from naslab.runs.studies import list_studies

    found = list_studies(storage)
    where = shown(storage_url(storage))
    if as_json:
        print_json({"schema": "naslab.studies/1", "storage": where, "studies": [one.to_dict() for one in found]})
        return
    table = Table("study", "state", "trials", "device hours", "last seen", "driver", title=f"Studies of {where}")
    for one in found:
        trials = ", ".join(f"{number} {state}" for state, number in one.trials.items())
        table.add_row(one.name, one.state, trials, f"{one.device_hours:.3g}", _ago(one), _driver(one))
    out.print(table)


@group.command()
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A study's name.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new name.")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Rename a study and its files. Change the name in its study file too."""
    from naslab.runs.studies import rename_study

    mentions = rename_study(storage, old, new)
    if as_json:
        print_json({"schema": "naslab.rename/1", "study": new, "was": old, "named_by": mentions})
        return
    out.print(f"{old} is now called {new}; write name: {new} in its study file", highlight=False, markup=False)
    _warn(mentions, old, "write the new name there")


@group.command()
def delete(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Confirm the deletion.")] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Delete a study permanently: its records, checkpoints, weights, logs and exports."""
    from naslab.runs.studies import delete_study, list_studies

    if not yes:
        found = next((one for one in list_studies(storage) if one.name == name), None)
        what = "" if found is None else f": {sum(found.trials.values())} trials and {found.files} would be deleted"
        raise InputError(f"studies delete {name!r}{what}; add --yes to delete it permanently")
    mentions = delete_study(storage, name)
    if as_json:
        print_json({"schema": "naslab.delete/1", "study": name, "named_by": mentions})
        return
    out.print(f"{name} is deleted", highlight=False, markup=False)
    _warn(mentions, name, "they cannot be ranked or run with it any more")


def _warn(mentions: Sequence[str], name: str, what: str) -> None:
    if mentions:
        line = f"{name} is named by {'; '.join(mentions)}: {what}"
        err.print(line, highlight=False, markup=False, soft_wrap=True)


def _ago(one: Overview) -> str:
    if one.last_seen is None:
        return "never"
    seconds = max(time.time() - one.last_seen, 0.0)
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _driver(one: Overview) -> str:
    driver: Any = one.driver
    return "" if driver is None else f"process {driver['pid']} on {driver['host']}, {driver['slots']} slots"
