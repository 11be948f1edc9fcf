"""Work for a device that is prepared while the device is busy with what came before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

NUMBER = 2
"""Items that are ready or being prepared, beside the one that was taken last."""
T = TypeVar("T")
U = TypeVar("U")


def ahead(function: Callable[[T], U], items: Iterable[T], device: torch.device) -> Iterator[U]:
    """`map(function, items)`, the next results being prepared in a thread while `device` works on the last.

    Calls stay in order, one at a time, so that what they draw from a generator is the same. On a CPU nothing is
    prepared: it would take the cores from the step.

    Raises:
        Exception: whatever a call raises, when its result would be taken.
    """
    return map(function, items) if device.type == "cpu" else _prepared(function, items)


def _prepared(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    pool, waiting = ThreadPoolExecutor(1, thread_name_prefix="ahead"), deque[Future[U]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > NUMBER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # an epoch that ends early waits for the call that runs, and for no other
        pool.shutdown(cancel_futures=True)
