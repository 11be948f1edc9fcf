"""Reports when a compiler runs, so that a study charges compilation separately from training.

C++ loops and Triton kernels are told of where they are made; torch.compile announces itself; so does whoever measures
what to compile. Seconds are told when they are over, so that a compiler that raises leaves nothing open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

Told = Callable[[float, int], None]
"""Takes the seconds of a compilation that has just ended, and how many threads it had."""

_told: list[Told] = []
_began: list[tuple[float, int]] = []
"""When each compilation began that is not over yet, and its threads; of one inside another the outer one counts."""


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """Tell of every compilation meanwhile in this process."""
    hear_torch_compile()
    _told.append(told)
    try:
        yield
    finally:
        _told.remove(told)


@contextmanager
def compiling(threads: int = 1) -> Iterator[None]:
    """What happens inside is compilation, or a measurement of what to compile."""
    _began.append((time.perf_counter(), threads))
    try:
        yield
    finally:
        _end()


@cache
def hear_triton() -> None:
    """Be told by Triton of what it compiles or finds in its cache; a listener that is there is told, too."""
    from triton import knobs

    other = knobs.compilation.listener

    def listen(**facts: Any) -> None:
        if other is not None:
            other(**facts)
        if not _began:
            _tell(facts["times"].total / 1e6, 1)

    knobs.compilation.listener = listen


def hear_torch_compile() -> None:
    """Be told by torch.compile; again after each `torch.compiler.reset`, which forgets who is to be told."""
    from torch._dynamo.callback import callback_handler  # every optimiser imports torch._dynamo

    if _begin not in callback_handler.start_callbacks:
        callback_handler.register_start_callback(_begin)
        callback_handler.register_end_callback(_end)


def _begin(*_: object) -> None:
    _began.append((time.perf_counter(), 1))


def _end(*_: object) -> None:
    began, threads = _began.pop()
    if not _began:
        _tell(time.perf_counter() - began, threads)


def _tell(seconds: float, threads: int) -> None:
    for told in _told:
        told(seconds, threads)
