"""Classifies errors: the task's, its process's, or the machine's, which only the user can fix."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from naslab.errors import InputError, NaslabError
from naslab.runs.executors.base import WorkerDied

TORCH_CANNOT_WRITE = ("basic_ios::clear: iostream error", "PytorchStreamWriter failed writing file")
"""How `torch.save` says that its file took no more bytes; the system's own reason does not come through."""
TAKEN_AWAY = (errno.EBADF, errno.ENOENT, errno.EFBIG, errno.EMFILE)
"""A file that the task closed, a folder that it deleted, a limit of its process that it set: the machine is well."""
MOST_CHARACTERS = 500


def in_one_line(problem: BaseException) -> str:
    """What an exception says, whatever it says: a task may raise anything."""
    try:
        text = str(problem)
    except Exception:  # noqa: BLE001 - it cannot even say what it is
        text = "its message cannot be read"
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MOST_CHARACTERS]
    return text if isinstance(problem, NaslabError) else f"{type(problem).__name__}: {text}"


def place_of(problem: BaseException) -> str:
    """Kind of the exception and the line that raised it."""
    frames = traceback.extract_tb(problem.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return type(problem).__name__ + where


def disk_is_full(problem: BaseException | None) -> bool:
    """Whether a task's error says that nothing can be written any more: no fault of its trial."""
    while problem is not None:
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(problem, RuntimeError) and any(words in str(problem) for words in TORCH_CANNOT_WRITE):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def cannot_write(path: Path, error: OSError) -> NaslabError:
    """What to raise where a worker cannot write its own file: the user has to act, or another process may do better."""
    line = f"{path}: cannot be written: {error.strerror}"
    return WorkerDied(line) if error.errno in TAKEN_AWAY else InputError(line)
