"""What made a result: versions, the code of space and task, and the files that the task's options name.

Two trials of one configuration and seed are equal only where all of this is.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from naslab.search_spaces import Task
from naslab.version import naslab_version


def made_with(task: Task) -> dict[str, str]:
    """The facts by name; the data are told apart by names, sizes and times of change, and not read."""
    return {
        "naslab": naslab_version(),
        "torch": str(torch.__version__),
        "code": code_of(type(task.space), type(task)),
        "data": _digest(fact for _, value in sorted(dict(task.options).items()) for fact in _facts(value)),
    }


@cache
def code_of(*kinds: type) -> str:
    """A digest of the files that classes are written in."""
    return _digest(text for kind in kinds for text in _texts(kind))


def _texts(kind: type) -> Iterator[str]:
    """The text of every file that a class and its bases are written in."""
    files = {file: None for base in kind.__mro__ if (file := _file_of(base)) is not None}
    for file in files:
        yield Path(file).read_text(encoding="utf-8", errors="replace")


def _file_of(kind: type) -> str | None:
    try:
        return inspect.getsourcefile(kind)
    except (OSError, TypeError):  # built in, or typed in by hand
        return None


def _facts(value: object) -> Iterator[str]:
    """Of a path that is there: a file's size and time of change; of a folder those of itself and of what is in it."""
    if not isinstance(value, Path) or not value.exists():
        return
    for path in sorted([value, *(value.iterdir() if value.is_dir() else ())]):
        found = path.stat()
        yield f"{path.name} {found.st_size} {found.st_mtime_ns}"


def _digest(parts: Iterator[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
