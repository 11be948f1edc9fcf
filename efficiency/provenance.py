"""Where a figure comes from: machine, versions and settings, recorded beside every measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from efficiency.device import device_name


@dataclass(frozen=True)
class Provenance:
    """`load_average` is of the last minute; `commit` of the code that ran, with + when it had changes."""

    device: str
    num_cpus: int
    torch_threads: int
    platform: str
    python: str
    torch: str
    naslab: str
    commit: str | None
    utc: str
    load_average: float
    cuda: str | None = None
    gpu_memory_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def collect_provenance(device: torch.device) -> Provenance:
    """The provenance of a measurement made now on `device`."""
    gpu = device.type == "cuda"
    return Provenance(
        device=device_name(device),
        num_cpus=os.cpu_count() or 0,
        torch_threads=torch.get_num_threads(),
        platform=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        naslab=naslab_version(),
        commit=_commit(),
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=os.getloadavg()[0],
        cuda=torch.version.cuda if gpu else None,
        gpu_memory_bytes=torch.cuda.get_device_properties(device).total_memory if gpu else None,
    )


def naslab_version() -> str:
    """The installed version, or "source" where it is not installed."""
    try:
        return version("naslab")
    except PackageNotFoundError:
        return "source"


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
