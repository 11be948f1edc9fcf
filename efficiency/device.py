"""Devices by the names that users give them."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

import torch

from naslab.errors import InputError


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`: "auto" is the first CUDA (or ROCm) device, else the CPU.

    Raises:
        InputError: no such device here.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(f"device: {name!r} is unknown; use auto, cpu, cuda or cuda:0 to cuda:N")
    index = int(match[1] or 0)
    if index >= count:
        here = f"cuda:0 to cuda:{count - 1}" if count else "none"
        raise InputError(f"device: {name!r} is not there; CUDA devices here: {here}")
    return torch.device("cuda", index)


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


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
