"""Names of operations, and control flow that torch keeps whole (`cond`, `while_loop`, `scan`, `map`).

The bodies of such control flow run where a mode sees them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch._ops import HigherOrderOperator


def operation_name(func: Any) -> str:
    """Key of an operation in FORMULAS: `aten::add_.Tensor` is "add", other namespaces keep theirs."""
    if not hasattr(func, "_schema"):
        return f"higher_order::{func.name()}"
    namespace, _, name = func._schema.name.partition("::")
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    return name if namespace == "aten" else f"{namespace}::{name}"


def is_higher_order(func: Any) -> bool:
    """Whether an operation takes functions, which torch runs out of a dispatch mode's sight."""
    return isinstance(func, HigherOrderOperator)


def run_watched(mode: AbstractContextManager[Any], func: Any, args: Any, kwargs: Any) -> Any:
    """The value of a higher-order operation, with `mode` on again inside its bodies: the branch that is taken, and a
    loop as often as it goes round.
    """
    return func(*(_watched(mode, argument) for argument in args), **kwargs)


def _watched(mode: AbstractContextManager[Any], argument: Any) -> Any:
    if not callable(argument):
        return argument
    body: Callable[..., Any] = argument

    @functools.wraps(body, assigned=())
    def watched(*args: Any, **kwargs: Any) -> Any:
        with mode:
            return body(*args, **kwargs)

    return watched
