"""Names of studies and arms: they become names of folders and records, on every file system and in every database."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from naslab.errors import InputError

MOST_LETTERS = 64


def check_name(name: str) -> None:
    """Refuse what can name no study.

    Raises:
        InputError: what is wrong with it, and what is allowed.
    """
    if len(name) > MOST_LETTERS:
        raise InputError(f"{name[:20]!r}... has {len(name)} letters; a name has {MOST_LETTERS} at most")
    if re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]*", name) is None:
        raise InputError(
            f"{name!r} is no name; letters from A to Z, digits, '-', '_' and '.' are allowed, and a letter or a digit "
            "comes first"
        )


def _checked(name: str) -> str:
    try:
        check_name(name)
    except InputError as error:
        raise ValueError(str(error)) from None
    return name


Name = Annotated[str, AfterValidator(_checked)]
Names = Annotated[tuple[Name, ...], AfterValidator(lambda names: tuple(dict.fromkeys(names)))]
