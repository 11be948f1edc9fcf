"""What this machine offers: the documents of `naslab devices` and `naslab doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from naslab.efficiency.ceilings import load_ceilings
from naslab.efficiency.device import device_name, host_memory_bytes
from naslab.efficiency.gpus import GPUS, match_gpu, prices_path, read_prices
from naslab.runs.extras import is_installed
from naslab.search_spaces.data.files import EMBEDDED_FILE, FASHION_MNIST_ROOT, default_root
from naslab.version import naslab_version


class Check(NamedTuple):
    """One part of the machine: whether naslab can use it, and what was found."""

    part: str
    usable: bool
    found: str


def devices_document() -> dict[str, Any]:
    """Every device that `--device` can name here, and every accelerator in the table with the user's price."""
    here = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    prices = read_prices()
    return {
        "schema": "naslab.devices/1",
        "devices": [_device_row(device) for device in here],
        "known": [gpu.to_dict() | {"price_per_hour": prices.get(gpu.name)} for gpu in GPUS.values()],
        "prices_file": str(prices_path()),
    }


def _device_row(device: torch.device) -> dict[str, Any]:
    known, ceilings = match_gpu(device_name(device)), load_ceilings(device)
    return {
        "device": str(device),
        "name": device_name(device),
        "memory_bytes": _memory_bytes(device),
        "known_as": known.name if known else None,
        "calibrated": ceilings.provenance.utc if ceilings else None,
    }


def doctor_document() -> dict[str, Any]:
    """Which parts of the machine are usable; `usable` is false where something merely optional is missing, too."""
    gpus = torch.cuda.device_count()
    checks = (
        Check("python", True, platform.python_version()),
        Check("naslab", True, naslab_version()),
        Check("torch", True, torch.__version__),
        Check("cpu", True, f"{device_name(torch.device('cpu'))}, {os.cpu_count()} cores"),
        Check("gpu", gpus > 0, ", ".join(device_name(torch.device("cuda", i)) for i in range(gpus)) or "none"),
        _compiler(),
        _package("triton", "kernels on a GPU"),
        _package("pynvml", "clocks and power of NVIDIA GPUs"),
        _package("transformers", "hf: targets"),
        *_cluster(),
        _any_of("loggers", ("tensorboard", "mlflow", "wandb", "trackio")),
        _cache(),
        _data(),
    )
    return {"schema": "naslab.doctor/1", "checks": [check._asdict() for check in checks]}


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host_memory_bytes()


def _compiler() -> Check:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return Check("C++ compiler for torch.compile on the CPU", found is not None, found or "none")


def _cluster() -> tuple[Check, ...]:
    """What studies on several machines use."""
    submit = shutil.which("sbatch")
    slurm = is_installed("submitit") and submit is not None
    said = "submitit and sbatch" if slurm else "no sbatch" if is_installed("submitit") else "submitit is not installed"
    distributed = torch.distributed.is_available()
    backends = [
        name for name in ("gloo", "nccl", "mpi") if distributed and torch.distributed.is_backend_available(name)
    ]
    return (
        _any_of("PostgreSQL driver", ("psycopg", "psycopg2")),
        _package("ray", "executor: ray"),
        Check("slurm (executor: slurm)", slurm, said),
        Check("torchrun (trials of several processes)", bool(backends), ", ".join(backends) or "none"),
    )


def _any_of(part: str, names: Sequence[str]) -> Check:
    found = [name for name in names if is_installed(name)]
    return Check(part, bool(found), ", ".join(found) or f"none of {', '.join(names)}")


def _package(name: str, purpose: str) -> Check:
    found = is_installed(name)
    return Check(f"{name} ({purpose})", found, "installed" if found else "not installed")


def _cache() -> Check:
    """A file is really written: permission bits do not know about full or read-only disks."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"probe")
    except OSError as error:
        return Check("writable cache", False, f"{folder}: {error.strerror}")
    return Check("writable cache", True, f"{folder}, {shutil.disk_usage(existing).free / 1e9:.1f} GB free")


def _data() -> Check:
    root = default_root()
    places = {
        "embedded": EMBEDDED_FILE,
        "fashion_mnist": FASHION_MNIST_ROOT,
        "cifar10": root / "cifar-10-batches-py",
        "cifar100": root / "cifar-100-python",
        "stl10": root / "stl10_binary",
    }
    found = [name for name, place in places.items() if place.exists()]
    return Check("data sets", bool(found), ", ".join(found) or f"none; others are looked for in {root}")
