"""Control flow that torch keeps opaque (`cond`, `while_loop`, `scan`, `map`): its bodies are run under the mode."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


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
