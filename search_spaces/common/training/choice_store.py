"""The store of chosen policies: one file a subject in the user's cache, written once, by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO, get_args

import torch

from naslab.efficiency.device import device_name
from naslab.kernels._build import instruction_set
from naslab.kernels._cache import cache_folder, replace_file
from naslab.kernels._compiling import compiling
from naslab.search_spaces.common.training.policy import MemoryFormat, Policy, Precision
from naslab.version import naslab_version

SCHEMA = "naslab.policy/1"
PATIENCE_SECONDS = 600.0
"""How long others wait for a measurement: whoever makes it may have been stopped, or be on a machine that hangs."""
LOOK_SECONDS = 0.2
"""How often one that waits looks again."""


def path_of(subject: Mapping[str, Any], steps: int, device: torch.device) -> Path:
    """The file of a choice for trainings of so many steps, on this machine's device, by these versions."""
    key = {
        "subject": dict(subject),
        "steps": steps,
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "instructions": instruction_set() if device.type == "cpu" else None,  # virtual processors share a name
        "torch": torch.__version__,
        "naslab": naslab_version(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    return cache_folder() / "policies" / f"{digest[:24]}.json"


def kept(path: Path) -> Policy | None:
    """The choice in a file; None where there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        policy = Policy(**document["policy"])
        known = policy.precision in get_args(Precision) and policy.memory_format in get_args(MemoryFormat)
        same_kinds = all(type(getattr(policy, field.name)) is type(field.default) for field in fields(Policy))
        whole = known and same_kinds and policy.accumulation >= 1 and document["schema"] == SCHEMA
        return policy if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def can_keep(path: Path) -> bool:
    """Whether a choice can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)


def keep(path: Path, document: Mapping[str, Any]) -> Policy | None:
    """Write a choice unless another process was first; the one that is kept, None where none can be.

    Args:
        document: with `schema` and `policy`.
    """
    mine = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        replace_file(mine, json.dumps(document, indent=1).encode())
        try:
            os.link(mine, path)
        except OSError:
            if kept(path) is None:  # damaged; or a file system without links
                os.replace(mine, path)
        finally:
            mine.unlink(missing_ok=True)
    return kept(path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time: trials that begin together would disturb each other's samples, and pay twice."""
    with ExitStack() as held:
        with suppress(OSError):  # a full disk, or one without locks: of choices made together the first is kept
            file = held.enter_context(path.with_suffix(".lock").open("w"))
            _lock(file, path)
            held.callback(_unlock, file)
        yield


def _lock(file: TextIO, path: Path) -> None:
    """Wait for the lock, or for the choice; in the end go on without either, as does one that has no lock at all.

    The wait is no part of the training, and no core works meanwhile.
    """
    if _has_locked(file):
        return
    deadline = time.monotonic() + PATIENCE_SECONDS
    with compiling(threads=0):
        while time.monotonic() < deadline and not _has_locked(file) and kept(path) is None:
            time.sleep(LOOK_SECONDS)


def _has_locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(file: TextIO) -> None:
    """Not by closing alone: processes forked meanwhile, such as data loaders, have the file open for longer."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
