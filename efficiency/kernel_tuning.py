"""Launch sizes of the Triton kernels, tuned on this device and stored for it.

Nothing is tuned unless it is asked for (`naslab bench kernels --tune`), and never while something is timed: the choice
lies in the cache folder under the device's name and the versions of torch and Triton, and later processes read it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from naslab.efficiency.device import current
from naslab.efficiency.kernel_cases import Case, cases
from naslab.efficiency.kernel_table import is_correct, time_ms
from naslab.errors import InputError
from naslab.kernels._triton import Launch, asked_launches, device_key, remember, trying

logger = logging.getLogger(__name__)

MARGIN = 0.02
"""A candidate replaces the launch in use if it is faster by more than this share: less is noise."""
WARPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Tuned:
    """What became of one kernel's launch: milliseconds of forward and backward at the largest shape."""

    kernel: str
    before: Launch
    before_ms: float
    chosen: Launch
    chosen_ms: float


def tune_kernels(device: torch.device, dtype: torch.dtype, max_seconds: float, only: str | None = None) -> list[Tuned]:
    """Tune every launch of every kernel, or of one, and remember what is better than the launch in use.

    Args:
        max_seconds: for each measurement; there are up to 45 for each launch.
        only: one kernel of the table, by name.

    Raises:
        InputError: the device is no GPU, or no kernel has that name.
    """
    if device.type != "cuda":
        raise InputError(f"--tune: {device} has no launches to tune; use a CUDA or ROCm device")
    chosen = cases(device, dtype, only)
    with current(device):
        milliseconds = partial(time_ms, device=device, max_seconds=max_seconds)
        return tune(chosen, partial(is_correct, dtype=dtype), milliseconds, device)


def tune(
    table: Sequence[Case], correct: Callable[[Case], bool], milliseconds: Callable[[Case], float], device: torch.device
) -> list[Tuned]:
    """Tune on these cases, each kernel's largest last. Correct at all of them comes before fast."""
    outcome = []
    for kernel in dict.fromkeys(case.kernel for case in table):
        same = [case for case in table if case.kernel == kernel]
        with asked_launches() as asked:
            correct(same[-1])
        for name, before in asked.items():
            tuned = _best(name, before, same, correct, milliseconds)
            logger.info(
                "%s: %s, %.4g ms, was %s, %.4g ms", name, tuned.chosen, tuned.chosen_ms, before, tuned.before_ms
            )
            if tuned.chosen != before:
                remember(device_key(device), name, tuned.chosen)
            outcome.append(tuned)
    return outcome


def candidates(launch: Launch) -> Iterator[Launch]:
    """Half, the same and double of each size; sizes that the kernel does not use (0 or 1) stay."""
    for block, rows, num_warps in product(_around(launch.block), _around(launch.rows), WARPS):
        yield Launch(block, rows, num_warps)


def _around(size: int) -> tuple[int, ...]:
    return (size,) if size <= 1 else (size // 2, size, 2 * size)


def _best(
    name: str,
    before: Launch,
    same: list[Case],
    correct: Callable[[Case], bool],
    milliseconds: Callable[[Case], float],
) -> Tuned:
    before_ms = _time(name, before, same, correct, milliseconds)
    best, best_ms = before, before_ms
    for candidate in candidates(before):
        if candidate == before:
            continue
        took_ms = _time(name, candidate, same, correct, milliseconds)
        if took_ms < min(best_ms, before_ms * (1 - MARGIN)):
            best, best_ms = candidate, took_ms
    return Tuned(name, before, before_ms, best, best_ms)


def _time(
    name: str,
    launch: Launch,
    same: list[Case],
    correct: Callable[[Case], bool],
    milliseconds: Callable[[Case], float],
) -> float:
    """Infinite where the launch gives a wrong result or none at all (it may not fit the device, or not compile)."""
    with trying(name, launch):
        try:
            return milliseconds(same[-1]) if all(correct(case) for case in same) else float("inf")
        except Exception as error:  # noqa: BLE001 - compilers and drivers raise as many kinds as there are
            logger.debug("%s does not run as %s: %s", name, launch, error)
            return float("inf")
