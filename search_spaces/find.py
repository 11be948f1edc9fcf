"""From names and plain values in a study file to a space and its task.

A space is a folder of this package, or `module.path:Class` of the user's own.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from naslab.errors import InputError, NaslabError
from naslab.search_spaces.options import RECORDED, Options, explain
from naslab.search_spaces.parameters import check_parameters
from naslab.search_spaces.space import SearchSpace
from naslab.search_spaces.task import Control, Task
from naslab.search_spaces.user_modules import import_from

T = TypeVar("T")


def space_names() -> list[str]:
    """Names of the spaces that ship: the folders of this package that have a `space` module."""
    here = Path(__file__).parent
    return sorted(
        m.name for m in pkgutil.iter_modules([str(here)]) if m.ispkg and (here / m.name / "space.py").exists()
    )


def find_space(
    name: str, preset: str | None = None, options: dict[str, Any] | None = None, recorded: bool = False
) -> SearchSpace:
    """The space called `name`, with the options of `preset` overridden by `options`.

    Args:
        name: a shipped space (`nasiam`) or `module.path:Class`, looked for in the current folder too.
        recorded: the options are from a file that an older version may have written; those without effect are ignored.

    Raises:
        InputError: no such space or preset, or options that it does not allow.
    """
    cls, changed = _space_class(name), options or {}
    if preset is not None and preset not in cls.presets:
        raise InputError(f"space {name}: no preset {preset!r}; it has {', '.join(cls.presets) or 'none'}")
    chosen = {**(cls.presets[preset] if preset is not None else {}), **changed}
    applying = {key: value for key, value in chosen.items() if key in changed or cls.Options.applies(key, chosen)}
    try:
        validated = cls.Options.model_validate(applying, context=RECORDED if recorded else None)
    except ValidationError as error:
        raise InputError(explain(error, "space.options")) from None
    space: SearchSpace = told(f"space {name}", lambda: cls(validated))
    if not recorded:
        told(f"space {name}", lambda: _check_space(space, name))
    return space


def _check_space(space: SearchSpace, name: str) -> None:
    check_parameters(space.parameters)
    try:
        _ = space.reference
    except InputError as error:
        raise InputError(f"space {name}: its reference: {error}") from None


def make_task(space: SearchSpace, values: dict[str, Any], device: torch.device, recorded: bool = False) -> Task:
    """The task of `space` on `device`, with options given as plain values; `recorded` as for `find_space`.

    Raises:
        InputError: an option that the task does not allow, data that is missing, broken or does not fit, or anything
            else that the task's constructor raises; a budget below zero.
    """
    kind = getattr(space, "Task", None)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        what = "names no Task" if kind is None else f"has Task = {kind!r}"
        raise InputError(f"space {space.name}: its class {what}; use a subclass of naslab.search_spaces.Task")
    _check_options(kind, f"task of space {space.name}")
    try:
        options = space.Task.Options.model_validate(values, context=RECORDED if recorded else None)
    except ValidationError as error:
        raise InputError(explain(error, "task")) from None
    where = f"task of space {space.name}"
    task: Task = told(where, lambda: space.Task(space, options, device))
    if not recorded:
        told(where, lambda: _check(task, where))
    return task


def _check(task: Task, where: str) -> None:
    """What a study asks of its task before anything runs is there, and of its kind."""
    metric, epochs = getattr(task, "metric", None), task.max_epochs
    if not (isinstance(metric, str) and metric):
        raise InputError(f"{where}: metric is {metric!r}, not the name of a score")
    if type(epochs) is not int:
        raise InputError(f"{where}: max_epochs is {epochs!r}, not an integer")
    if epochs < 0:
        raise InputError(f"{where}: {epochs} epochs; use 0 (nothing is trained) or more")
    for control in task.controls():
        if not isinstance(control, Control):
            raise InputError(f"{where}: {control!r} among its controls is no Control")


def told(what: str, make: Callable[[], T]) -> T:
    """What `make` returns; an error that is not naslab's own becomes one line that says where it was raised."""
    try:
        return make()
    except NaslabError:
        raise
    except (Exception, SystemExit) as error:
        raise _in_one_line(what, error) from error


def _in_one_line(what: str, error: BaseException) -> InputError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())
    return InputError(f"{what}: {type(error).__name__}: {words} ({Path(place.filename).name}, line {place.lineno})")


def _space_class(name: str) -> type[SearchSpace]:
    module_name, _, class_name = name.partition(":")
    if not class_name:
        if name not in space_names():
            raise InputError(f"space: {name!r} is unknown; use {', '.join(space_names())} or module.path:Class")
        module_name = f"naslab.search_spaces.{name}"
        found = getattr(importlib.import_module(module_name), "Space", None)
    else:
        import_from(Path.cwd())
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InputError(f"space: cannot import {module_name!r} of {name!r}: {error}") from None
        except (Exception, SystemExit) as error:
            raise _in_one_line(f"space: cannot import {module_name!r} of {name!r}", error) from error
        found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, SearchSpace)):
        raise InputError(f"space: {name!r} names no SearchSpace class")
    _check_options(found, f"space {name}")
    if not isinstance(getattr(found, "name", None), str):
        raise InputError(f'space {name}: its class has no name; give it one, such as name = "mine"')
    return found


def _check_options(owner: Any, where: str) -> None:
    """A class that a study file sets options of says which; `lab.Options` is none."""
    given = getattr(owner, "Options", None)
    if not (isinstance(given, type) and issubclass(given, Options)):
        what = "has no Options" if given is None else f"has Options = {given!r}"
        raise InputError(f"{where}: its class {what}; use a subclass of naslab.search_spaces.Options, or that itself")
