"""From a name in a study file to a space: a folder of this package, or `module.path:Class` of the user's own."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from naslab.efficiency.errors import InputError
from naslab.search_spaces.options import explain
from naslab.search_spaces.space import SearchSpace


def space_names() -> list[str]:
    """Names of the spaces that ship: the folders of this package that have a `space` module."""
    here = Path(__file__).parent
    return sorted(
        m.name for m in pkgutil.iter_modules([str(here)]) if m.ispkg and (here / m.name / "space.py").exists()
    )


def find_space(name: str, preset: str | None = None, options: dict[str, Any] | None = None) -> SearchSpace:
    """The space called `name`, with the options of `preset` overridden by `options`.

    Args:
        name: a shipped space (`nasiam`) or `module.path:Class`, looked for in the current folder too.

    Raises:
        InputError: no such space or preset, or options that it does not allow.
    """
    cls = _space_class(name)
    chosen: dict[str, Any] = {}
    if preset is not None:
        if preset not in cls.presets:
            raise InputError(f"space {name}: no preset {preset!r}; it has {', '.join(cls.presets) or 'none'}")
        chosen.update(cls.presets[preset])
    chosen.update(options or {})
    try:
        return cls(cls.Options.model_validate(chosen))
    except ValidationError as error:
        raise InputError(explain(error, "space")) from None


def _space_class(name: str) -> type[SearchSpace]:
    module_name, _, class_name = name.partition(":")
    if not class_name:
        if name not in space_names():
            raise InputError(f"space: {name!r} is unknown; use {', '.join(space_names())} or module.path:Class")
        module_name = f"naslab.search_spaces.{name}"
        found = getattr(importlib.import_module(module_name), "Space", None)
    else:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            found = getattr(importlib.import_module(module_name), class_name, None)
        except ModuleNotFoundError as error:
            raise InputError(f"space: cannot import {module_name!r} of {name!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, SearchSpace)):
        raise InputError(f"space: {name!r} names no SearchSpace class")
    return found
