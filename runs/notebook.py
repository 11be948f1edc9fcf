"""Saves a function of a notebook as a module that workers can import.

The module holds the function, whatever of the notebook it refers to (imports, functions, classes, plain values), and
nothing else; so a study can be resumed, and read, long after the notebook is closed.
"""

from __future__ import annotations
import __future__

import ast
import dis
import inspect
import linecache
import math
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any

from naslab.errors import InputError

LAZY = "from __future__ import annotations"


def module_text(function: Callable[..., Any]) -> str:
    """The text of a module that defines `function` and what it refers to.

    Raises:
        InputError: its source is not known, or it refers to a value that cannot be written down.
    """
    lines: dict[str, str] = {}
    _define(function.__name__, function, function.__globals__, lines)
    first = [LAZY] if lines.pop(LAZY, None) else []
    return "\n\n".join([*first, *lines.values()]) + "\n"


def _define(name: str, value: Any, scope: dict[str, Any], lines: dict[str, str]) -> None:
    """Add the line that gives `name` its value, after those that it needs."""
    if name in lines:
        return
    if isinstance(value, ModuleType):
        lines[name] = f"import {value.__name__} as {name}"
    elif _is_defined(value):
        if value.__module__ != "__main__":
            outer, *inner = value.__qualname__.split(".")
            lines[name] = f"from {value.__module__} import {outer} as {name}"
            if inner:  # of a class
                lines[name] += f"\n{name} = {name}.{'.'.join(inner)}"
            return
        own = value.__name__
        if own != name and scope.get(own) is value:
            _define(own, value, scope, lines)
            lines[name] = f"{name} = {own}"
            return
        source = source_of(value)
        if name not in _bound(source):
            raise _unknown(name, value)
        lines[name] = ""  # its place, so that a recursive function ends here
        for needed in _names(source):
            if needed in scope and needed != name:
                _define(needed, scope[needed], scope, lines)
        del lines[name]
        lines[name] = source
        if inspect.isfunction(value) and value.__code__.co_flags & __future__.annotations.compiler_flag:
            lines[LAZY] = LAZY  # what its annotations name need not be there
    elif (place := _place(name, value)) is not None:
        lines[name] = f"from {place[0]} import {place[1]} as {name}"
    else:
        lines[name] = f"{name} = {_literal(name, value)}"


def _is_defined(value: Any) -> bool:
    """Whether it is a class or a function, perhaps within a decorator such as `functools.cache`."""
    return inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))


def _bound(source: str) -> list[str]:
    """The names that a text gives a value."""
    targets = [
        target
        for statement in ast.parse(source).body
        for target in getattr(statement, "targets", [getattr(statement, "target", statement)])
    ]
    return [getattr(target, "id", getattr(target, "name", "")) for target in targets]


def _place(name: str, value: Any) -> tuple[str, str] | None:
    """A module and the name there of what the notebook imported and is neither function nor class in Python, such as
    `math.sqrt`, `numpy.exp` or `torch.float32`; None where there is none.
    """
    if isinstance(value, _PLAIN):
        return None
    owner, _, member = repr(value).rpartition(".")  # how torch and others name their constants
    names = dict.fromkeys([getattr(value, "__name__", name), member, name])
    modules = [getattr(value, "__module__", None), owner, *sorted(sys.modules, key=lambda known: known.count("."))]
    for module in modules:
        found = vars(sys.modules[module]) if module in sys.modules and module not in _MAIN else {}
        for one in names:
            if found.get(one) is value:
                return str(module), one
    return None


_MAIN = ("__main__", "__mp_main__")
"""The notebook itself; multiprocessing gives it a second name."""
_PLAIN = (bool, int, str, bytes, list, tuple, dict, set, frozenset, type(None))
"""What is written down by its value, wherever it was imported from."""


def source_of(value: Any) -> str:
    """The text of a function or class.

    Raises:
        InputError: Python does not know it, as of what was typed at a bare prompt.
    """
    try:
        return _class_source(value) if inspect.isclass(value) else textwrap.dedent(inspect.getsource(value)).rstrip()
    except (OSError, TypeError, StopIteration):
        raise InputError(
            f"{value.__name__}: workers cannot find it, its source is not known; put it in a file and import it"
        ) from None


def _class_source(kind: type) -> str:
    """`inspect` asks a class's module for its file, and a notebook has none.

    Its methods know their cell; where all are made by a decorator or a base, the last cell that defines it is meant.
    """
    functions = [_plain_function(member) for member in vars(kind).values()]
    files = dict.fromkeys(f.__code__.co_filename for f in functions if inspect.isfunction(f))
    cells = ["".join(linecache.getlines(file)) for file in files]
    cells += reversed(vars(sys.modules["__main__"]).get("In", ()))  # where IPython keeps what it ran
    return next(text for cell in cells for text in _definitions(cell, kind.__name__))


def _plain_function(member: Any) -> Any:
    """What a property, a class method or a decorator is around."""
    return inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))


def _definitions(cell: str, name: str) -> Iterator[str]:
    """The texts of the classes of that name at the top of a cell, the last first."""
    try:
        bodies = ast.parse(cell).body
    except SyntaxError:  # a cell of a notebook's own commands, or one that failed
        return
    for node in reversed(bodies):
        if isinstance(node, ast.ClassDef) and node.name == name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield "\n".join(cell.split("\n")[first - 1 : node.end_lineno])


def _names(source: str) -> Iterator[str]:
    """Every global that the text refers to, in its order."""
    yield from _in_code(compile(source, "<notebook>", "exec", dont_inherit=True))


def _in_code(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not step.argval.startswith("__"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _in_code(constant)


def _literal(name: str, value: Any) -> str:
    text = repr(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({text!r})"
    try:
        same = ast.literal_eval(text) == value
    except (ValueError, SyntaxError):
        same = False
    if not isinstance(same, bool) or not same:
        raise _unknown(name, value)
    return text


def _unknown(name: str, value: Any) -> InputError:
    return InputError(
        f"{name}: the function refers to it, and a {type(value).__name__} of the notebook is not known to workers; "
        "make it inside the function, or put both in a file and import them"
    )
