"""Provenance: where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from naslab.efficiency.device import cpu_model, device_name
from naslab.efficiency.nvml import answers, device_handle
from naslab.version import naslab_version


@dataclass(frozen=True)
class Provenance:
    """Everything outside the model that a figure depends on.

    `commit` is that of the running code, "-dirty" behind it when files differ, None when it is not in a git work tree.
    `load_average` is the system's over the last minute. `gpu` holds what the driver tells: driver, clocks (MHz), power
    limit (W), the driver's bit mask of throttle reasons, each None where it has no answer; without an NVIDIA GPU or the
    `nvidia` extra there are none.
    `samples` says where the raw samples are: a file, or a key of the document that the provenance stands in.
    """

    device: str
    device_kind: str
    cpu_model: str
    num_cpus: int
    torch_threads: int
    torch: str
    python: str
    naslab: str
    platform: str
    dtype: str
    compile_mode: str
    commit: str | None
    utc: str
    load_average: float | None
    gpu: Mapping[str, Any] = field(default_factory=dict)
    samples: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the published schema."""
        return asdict(self) | {"gpu": dict(self.gpu)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """The inverse of `to_dict`."""
        return cls(**values)


def collect_provenance(
    device: torch.device, dtype: str | None = None, compile_mode: str = "eager", samples: str | None = None
) -> Provenance:
    """The provenance of a figure measured now on `device`.

    Args:
        dtype: number format of the measured work; torch's default when left out.
        compile_mode: "eager" or "torch.compile".
        samples: where the raw samples are.
    """
    return Provenance(
        device=device_name(device),
        device_kind=device.type,
        cpu_model=cpu_model(),
        num_cpus=os.cpu_count() or 0,
        torch_threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        naslab=naslab_version(),
        platform=platform.platform(),
        dtype=dtype or dtype_name(torch.get_default_dtype()),
        compile_mode=compile_mode,
        commit=_commit(),
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        gpu=_gpu(device) if device.type == "cuda" else {},
        samples=samples,
    )


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, `bfloat16`, ..."""
    return str(dtype).removeprefix("torch.")


@cache
def _commit() -> str | None:
    """Of this very file: a copy installed inside somebody else's work tree is not tracked there."""
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _gpu(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    facts = {"memory_bytes": properties.total_memory, "cuda": torch.version.cuda, "rocm": torch.version.hip}
    try:
        import pynvml
    except ImportError:
        return facts
    try:
        pynvml.nvmlInit()
        handle = device_handle(pynvml, device)
    except pynvml.NVMLError as error:
        return facts | {"nvml": str(error)}
    return facts | answers(
        pynvml,
        {
            "driver": pynvml.nvmlSystemGetDriverVersion,
            "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            "power_limit_watts": lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
            "throttle_reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        },
    )
