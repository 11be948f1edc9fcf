"""A trial's log: everything its task prints, to either stream, also from native code or child processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from naslab.errors import InputError
from naslab.runs.trial import Trial


def log_path(files: Path, number: int) -> Path:
    """Where trial `number` of the study with these files has its log; a trial that printed nothing has none."""
    return files / "logs" / f"{number}.log"


def find_logs(files: Path, trials: Sequence[Trial], wanted: str) -> list[dict[str, Any]]:
    """The logs of the trial of this number, or of every attempt at the job of this key.

    Raises:
        InputError: the study has no such trial.
    """
    found = [t for t in trials if wanted in (str(t.number), t.job.key)]
    if not found:
        known = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise InputError(f"no trial {wanted!r}; numbers are {known}, `naslab status` shows the keys of what failed")
    return [{"trial": t.number, "key": t.job.key, "state": t.state, "text": _text(files, t.number)} for t in found]


def _text(files: Path, number: int) -> str:
    try:
        return log_path(files, number).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{log_path(files, number)}: cannot be read: {error.strerror}") from None


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Send this process's standard output and error to `path` while inside; an empty log is removed.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    with log:
        with _descriptors(log.fileno()), redirect_stdout(log), redirect_stderr(log):
            yield
        log.flush()
        if path.exists() and not path.stat().st_size:
            path.unlink()


@contextmanager
def _descriptors(target: int) -> Iterator[None]:
    """Streams 1 and 2 of the process point to `target`, for what does not ask Python where to print."""
    with ExitStack() as stack:
        for number, stream in ((1, sys.__stdout__), (2, sys.__stderr__)):
            if stream is not None:
                stream.flush()
                stack.callback(stream.flush)
            saved = os.dup(number)
            os.dup2(target, number)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, number)
        yield
