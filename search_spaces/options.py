"""Options: the base of everything that a study file may set, and one-line words for what is wrong with it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Options(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(error: ValidationError, where: str = "") -> str:
    """The first problem of a pydantic error in one line: place, what is wrong, what was given."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in (where, *first["loc"]) if part != "")
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key{more}"
    given = "" if first["type"] == "missing" else f", not {first['input']!r}"
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}{given}{more}"
