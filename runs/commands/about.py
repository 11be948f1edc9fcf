"""`naslab doctor` and `naslab spaces`: what this machine and this installation offer."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from naslab.runs.commands.model_options import Json
from naslab.runs.output import out, print_json


def doctor(as_json: Json = False) -> None:
    """What naslab can use on this machine."""
    from naslab.runs.machine import doctor_document

    document = doctor_document()
    if as_json:
        print_json(document)
        return
    table = Table("", "part", "found", title="What naslab can use on this machine")
    for check in document["checks"]:
        table.add_row("[green]yes" if check["usable"] else "[yellow]no", check["part"], check["found"])
    out.print(table)


def spaces(as_json: Json = False) -> None:
    """The search spaces, what varies in them, and why."""
    from naslab.search_spaces import space_names

    described = [_describe_space(name) for name in space_names()]
    if as_json:
        print_json({"schema": "naslab.spaces/1", "spaces": described})
        return
    for space in described:
        table = Table(
            "parameter", "allowed", "reason", title=f"{space['name']}  (presets: {', '.join(space['presets'])})"
        )
        for parameter in space["parameters"]:
            table.add_row(parameter["name"], parameter["allowed"], parameter["reason"])
        out.print(table)


def _describe_space(name: str) -> dict[str, Any]:
    from naslab.search_spaces import find_space

    space = find_space(name)
    return {
        "name": name,
        "presets": list(space.presets),
        "reference": space.reference.as_dict(),
        "parameters": [{"name": p.name, "allowed": p.allowed, "reason": p.reason} for p in space.parameters],
    }
