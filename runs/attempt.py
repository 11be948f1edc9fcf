"""One attempt at a trial at a time: only the worker of the last one that began may write to the trial's folder.

A driver that dies may leave workers out of its successor's reach, such as jobs in Slurm's queue. The driver begins each
attempt with an empty trail that names it. A worker that does not find its own attempt there has been replaced.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from naslab.runs.executors.base import WorkerDied
from naslab.whole_file import write_whole

TRAIL = "events.jsonl"
LATE_SECONDS = 30.0
"""So long a network file system may show what was in a folder before the attempt began."""


def begin_attempt(folder: Path) -> str:
    """Begin an attempt in the driver, which replaces any earlier one; its name, by which its worker knows its trail.

    Raises:
        OSError: the folder cannot be written.
    """
    attempt = uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / TRAIL, _first_line(attempt))
    return attempt


def end_attempt(folder: Path) -> None:
    """Let no worker begin it or go on with it."""
    (folder / TRAIL).unlink(missing_ok=True)


def open_trail(folder: Path, attempt: str) -> int:
    """The descriptor that appends to the trail of an attempt.

    Raises:
        WorkerDied: another attempt has replaced it, or it is to be no more.
        OSError: the trail cannot be written.
    """
    first = _first_line(attempt).encode()
    deadline = time.monotonic() + LATE_SECONDS
    while True:
        with suppress(FileNotFoundError):
            file = os.open(folder / TRAIL, os.O_RDWR | os.O_APPEND)
            if os.pread(file, len(first), 0) == first:
                return file
            os.close(file)
        if time.monotonic() >= deadline:
            raise WorkerDied("its attempt at the trial is over: the driver has ended or replaced it")
        time.sleep(0.1)


def check_current(folder: Path, attempt: str | None) -> None:
    """Raise WorkerDied, as `open_trail`, if the attempt was replaced; one without a name never is."""
    if attempt is not None:
        os.close(open_trail(folder, attempt))


def _first_line(attempt: str) -> str:
    return json.dumps({"attempt": attempt}) + "\n"
