"""Data that an installed package ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from naslab.errors import InputError


def package_folder(name: str, where: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        InputError: it is not installed; `where` names the option that asks for it.
    """
    try:
        found = importlib.util.find_spec(name)
    except ValueError:
        found = None
    if found is None or found.origin is None:
        install = name.replace("_", "-")
        raise InputError(f"{where}: {name} is not installed; pip install {install}, or use files")
    return Path(found.origin).parent
