"""This machine's GPUs and cores as slots: their assignment, and the charge of each."""

from __future__ import annotations

import os
from collections import Counter
from itertools import takewhile
from typing import Literal

import torch

from naslab.efficiency.device import resolve_kind
from naslab.errors import InputError
from naslab.runs.executors.base import Slot
from naslab.runs.threads import threads_per_slot


def local_slots(
    number: int,
    device: str = "auto",
    gpus: float | None = None,
    processes: int = 1,
    parallel: Literal["ddp", "fsdp2"] = "ddp",
) -> list[Slot]:
    """So many slots of this machine.

    Args:
        device: auto, cpu, cuda, or one GPU by its number.
        gpus: of each slot, or the fraction of one; None: one for each process, and where there are more slots than
            GPUs, these are dealt out in turn.
        processes, parallel: of each slot.

    Raises:
        InputError: no such device, or fewer than asked for.
    """
    kind, threads = resolve_kind(device), threads_per_slot(number)
    if kind.type == "cpu":
        if gpus is not None:
            raise InputError(f"executor.gpus: {gpus:g} a trial, and the study runs on the CPU (device: {device})")
        return [Slot("cpu", threads=threads, processes=processes, parallel=parallel)] * number
    pool = visible_gpus()
    pool = pool if kind.index is None else (pool[kind.index],)
    dealt = _deal(number, pool, gpus if gpus is not None or processes == 1 else float(processes))
    holders = Counter(dealt)
    return [
        Slot("cuda:0", len(seen) / holders[seen] if gpus is None else gpus, threads, seen, processes, parallel)
        for seen in dealt
    ]


def visible_gpus() -> tuple[str, ...]:
    """This machine's GPUs in the words of CUDA_VISIBLE_DEVICES: numbers, UUIDs, or names of MIG instances.

    A process sees one MIG instance at most, the first; each slot's own process sees its own.
    """
    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    if named is None:
        return tuple(map(str, range(count)))
    # As CUDA reads it: what comes after a name that cannot be one is not seen.
    names = tuple(takewhile(lambda name: name and not name.startswith("-"), map(str.strip, named.split(","))))
    return names if names and names[0].startswith("MIG-") else names[:count]


def _deal(number: int, pool: tuple[str, ...], gpus: float | None) -> list[tuple[str, ...]]:
    """The GPUs of each slot."""
    if gpus is None:
        return [(pool[i % len(pool)],) for i in range(number)]
    each, whole = max(1, round(gpus)), gpus >= 1
    if each > 1 and pool and pool[0].startswith("MIG-"):
        raise InputError(f"executor.gpus: {gpus:g} a trial, and a process sees one MIG instance at most; use 1")
    room = len(pool) // each if whole else len(pool) * int(1 / gpus + 1e-9)
    if number > room:
        raise InputError(
            f"executor.gpus: {gpus:g} a trial, and {len(pool)} here: room for {room} at once, not for {number}; use "
            f"--slots {room}" if room else f"executor.gpus: {gpus:g} a trial, and there are {len(pool)} here"
        )  # fmt: skip
    return [pool[i * each : (i + 1) * each] if whole else (pool[i % len(pool)],) for i in range(number)]
