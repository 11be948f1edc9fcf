"""Restores what a task changed in its worker's process, so that every trial there starts the same.

A worker is kept, with the data in its memory, for many trials. A choice that sets the default number format, say, must
not decide how the next configuration is trained; nor may a limit that one trial set end another.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch

from naslab.runs.faults import in_one_line

Part: TypeAlias = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How a part of the state is read, and how it is set."""


@contextmanager
def put_back(stuck: list[str]) -> Iterator[None]:
    """Put back, whatever happens inside, folder, environment, limits, signals, and the global settings of libraries.

    Args:
        stuck: takes why something cannot be put back, such as a folder that is gone; another process must go on then.
    """
    alone = threading.current_thread() is threading.main_thread()
    parts = [*_PARTS, *(_of_main_thread() if alone else ())]
    before = [read() for read, _ in parts]
    try:
        with warnings.catch_warnings() if alone else nullcontext():
            yield
    finally:
        for (read, write), value in zip(parts, before, strict=True):
            if _now(read) != value:
                try:
                    write(value)
                except (OSError, ValueError) as error:
                    stuck.append(in_one_line(error))


def _now(read: Callable[[], Any]) -> Any:
    """What stands now; None where even that cannot be told, as in a folder that is gone."""
    try:
        return read()
    except OSError:
        return None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _set_environment(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _set_collecting(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


_PARTS: tuple[Part, ...] = (
    # Limits first: what follows may need them.
    *(
        (partial(resource.getrlimit, which), partial(resource.setrlimit, which))
        for name, which in vars(resource).items()
        if name.startswith("RLIMIT_")
    ),
    (os.getcwd, os.chdir),
    (lambda: dict(os.environ), _set_environment),
    (_umask, os.umask),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (gc.isenabled, _set_collecting),
    (np.geterr, lambda kinds: np.seterr(**kinds)),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)


def _of_main_thread() -> Iterator[Part]:
    """Timers, blocked signals, and handlers: no other thread may set them."""
    yield partial(signal.getitimer, signal.ITIMER_REAL), lambda timer: signal.setitimer(signal.ITIMER_REAL, *timer)
    yield partial(signal.pthread_sigmask, signal.SIG_BLOCK, ()), partial(signal.pthread_sigmask, signal.SIG_SETMASK)
    for number in sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}):
        if signal.getsignal(number) is not None:  # None: set from native code, which Python cannot set again
            yield partial(signal.getsignal, number), partial(signal.signal, number)
