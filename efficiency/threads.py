"""Work that a model gives to other threads: a dispatch mode is per thread and has to be set in each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as executor_threads
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing import pool
from multiprocessing.pool import ThreadPool
from threading import Thread
from typing import Any, TypeAlias

Context: TypeAlias = Callable[[], AbstractContextManager[Any]]

_LOOPS = (getattr(executor_threads, "_worker", None), pool.worker)  # type: ignore[attr-defined]
"""What the threads of a pool run for as long as it lives; the calls handed to it are followed one by one."""
_HANDS_OVER = ((ThreadPoolExecutor, "submit"), *((ThreadPool, name) for name in (
    "apply_async", "_map_async", "imap", "imap_unordered",
)))  # fmt: skip
"""Methods whose first argument is a function that a thread of a pool will call."""


@contextmanager
def followed(hand_over: Callable[[], Context]) -> Iterator[None]:
    """Inside, a thread that starts and a call that is handed to a pool of threads run within a context.

    Args:
        hand_over: asked where work is handed over, in the thread that does so; what it returns makes the context in
            the other thread.
    """
    with ExitStack() as patches:
        patches.enter_context(_replaced(Thread, "start", functools.partial(_starting, hand_over)))
        for place, name in _HANDS_OVER:
            patches.enter_context(_replaced(place, name, functools.partial(_handing, hand_over)))
        yield


def _starting(hand_over: Callable[[], Context], start: Callable[..., Any]) -> Callable[..., Any]:
    def started(thread: Thread) -> None:
        if getattr(thread, "_target", None) not in _LOOPS:
            vars(thread)["run"] = _within(hand_over(), thread.run)
        start(thread)

    return started


def _handing(hand_over: Callable[[], Context], method: Callable[..., Any]) -> Callable[..., Any]:
    def handed(owner: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return method(owner, _within(hand_over(), function), *args, **kwargs)

    return handed


def _within(context: Context, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return run


@contextmanager
def _replaced(place: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """A class's method in another form, afterwards as before."""
    original, own = getattr(place, name), vars(place).get(name)
    setattr(place, name, functools.wraps(original)(make(original)))
    try:
        yield
    finally:
        if own is None:
            delattr(place, name)
        else:
            setattr(place, name, own)
