"""Devices by user-given names."""

from __future__ import annotations

import gc
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from naslab.errors import InputError


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`: "auto" is the first CUDA (or ROCm) device, else the CPU.

    Raises:
        InputError: no such device here.
    """
    device = resolve_kind(name)
    return torch.device("cuda", 0) if device.type == "cuda" and device.index is None else device


def resolve_kind(name: str = "auto") -> torch.device:
    """`resolve_device` with the index left open where none was named: whoever deals out slots chooses among all.

    Raises:
        InputError: no such device here.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(f"device: {name!r} is unknown; use auto, cpu, cuda or cuda:0 to cuda:N")
    index = int(match[1] or 0)
    if index >= count:
        here = f"cuda:0 to cuda:{count - 1}" if count else "none"
        raise InputError(f"device: {name!r} is not there; CUDA devices here: {here}")
    return torch.device("cuda") if match[1] is None else torch.device("cuda", index)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """The current device inside, for what asks for no other: launches, events, graphs, streams."""
    if device.type != "cuda" or device.index is None:
        yield
        return
    with torch.cuda.device(device):
        yield


def device_name(device: torch.device) -> str:
    """Kind and maker's name: `cuda: NVIDIA H100 80GB HBM3`, `cpu: AMD EPYC`."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {cpu_model()}" if device.type == "cpu" else device.type


@cache
def cpu_model() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def host_memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def hand_back(device: torch.device) -> None:
    """Give the device what the allocator keeps for later: to others who share it, a kept block is a taken one."""
    if device.type == "cuda" and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def is_lost(device: torch.device, problem: BaseException) -> bool:
    """Whether nothing more can be done on the device by this process: an error of CUDA that comes back at every call.

    Running out of memory is none. An error that another library reports in its own words is told by the device itself.
    """
    if device.type != "cuda" or isinstance(problem, torch.OutOfMemoryError):
        return False
    if isinstance(problem, torch.AcceleratorError):
        return True
    try:
        synchronise(device)
    except RuntimeError:
        return True
    return False


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
