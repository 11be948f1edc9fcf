"""How a worker at a rung gets its verdict: a small file in the job's folder.

The worker reports the rung, and waits for the verdict on that epoch; the driver writes it once it is in the ledger.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from naslab.whole_file import write_whole

VERDICT, STOP = "verdict.json", "stop"
PATIENCE_SECONDS = (0.002, 0.05)
"""The first and the longest pause between two looks."""


def give_verdict(folder: Path, epoch: int, pruned: bool) -> None:
    """Tell the worker in `folder` what was decided after `epoch`; a file that is half written is never seen."""
    write_whole(folder / VERDICT, json.dumps({"epoch": epoch, "pruned": pruned}))


def ask_to_stop(folder: Path, why: str) -> None:
    """Tell the worker in `folder` to end its trial at the next rung."""
    if asked_to_stop(folder) is None:
        write_whole(folder / STOP, why)


def await_verdict(folder: Path, epoch: int) -> str | None:
    """Wait until it is known what becomes of the trial after `epoch`: `prune`, another reason to stop, or None."""
    pause, longest = PATIENCE_SECONDS
    while (found := _verdict(folder, epoch)) is None:
        if (why := asked_to_stop(folder)) is not None:
            return why
        time.sleep(pause)
        pause = min(2 * pause, longest)
    return "prune" if found else asked_to_stop(folder)


def asked_to_stop(folder: Path) -> str | None:
    """Why the driver wants the trial to end at its next rung, such as `budget`; None where it does not."""
    try:
        return (folder / STOP).read_text(encoding="utf-8")
    except OSError:
        return None


def _verdict(folder: Path, epoch: int) -> bool | None:
    try:
        told = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
    except OSError:
        return None
    return bool(told["pruned"]) if told["epoch"] == epoch else None
