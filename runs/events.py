"""The trail that a running trial leaves in its folder: phases, rungs and a sign of life.

It is how the driver follows a worker, on this machine or another that shares the files, and how the seconds of a
trial that was killed are known. The ledger takes over what it says; nothing is read from it after that.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from naslab.efficiency.errors import InputError
from naslab.runs.trial import Phase, RungRecord

SIGN_OF_LIFE_SECONDS = 0.5


class Trail:
    """Writer, in the worker. Exactly one phase is charged at any time, from the first event to the last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "events.jsonl"
        self._began = self._since = time.perf_counter()
        self._phase: Phase = "other"
        self.seconds: dict[Phase, float] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._path.write_text("")
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
        self._write({"began": time.time()})
        self._alive = threading.Event()
        threading.Thread(target=self._show_life, daemon=True).start()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Charge what happens inside to `phase`."""
        before = self._phase
        self._switch(phase)
        try:
            yield
        finally:
            self._switch(before)

    def rung(self, epoch: int, scores: dict[str, float]) -> RungRecord:
        """Report a rung."""
        record = RungRecord(epoch, time.perf_counter() - self._began, scores)
        self._write({"rung": asdict(record)})
        return record

    def so_far(self) -> dict[Phase, float]:
        """Seconds by phase up to now."""
        seconds = dict(self.seconds)
        seconds[self._phase] = seconds.get(self._phase, 0.0) + time.perf_counter() - self._since
        return seconds

    def close(self) -> dict[Phase, float]:
        """Stop; seconds by phase."""
        self._switch(self._phase)
        self._alive.set()
        return self.seconds

    def _switch(self, phase: Phase) -> None:
        now = time.perf_counter()
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._since
        self._since, self._phase = now, phase
        self._write({"phase": phase, "at": now - self._began})

    def _write(self, event: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written: {error.strerror}") from None

    def _show_life(self) -> None:
        while not self._alive.wait(SIGN_OF_LIFE_SECONDS):
            try:
                os.utime(self._path)
            except OSError:
                return


class Follower:
    """Reader, in the driver: what a trail says so far."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        self._offset = 0
        self.rungs: list[RungRecord] = []
        self.phase: Phase = "other"
        self._began: float | None = None
        self._phases: list[tuple[Phase, float]] = [("other", 0.0)]

    def read(self) -> list[RungRecord]:
        """Take in what is new; the new rungs."""
        try:
            with self._path.open(encoding="utf-8") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole, _, _ = text.rpartition("\n")
        self._offset += len(whole.encode()) + bool(whole)
        new = [self._take(json.loads(line)) for line in whole.splitlines() if line]
        rungs = [rung for rung in new if rung is not None]
        self.rungs += rungs
        return rungs

    def _take(self, event: dict[str, Any]) -> RungRecord | None:
        if "began" in event:
            self._began = event["began"]
        elif "phase" in event:
            self.phase = event["phase"]
            self._phases.append((event["phase"], event["at"]))
        elif "rung" in event:
            return RungRecord(**event["rung"])
        return None

    def seconds(self) -> dict[Phase, float]:
        """Seconds by phase up to the last sign of life."""
        self.read()
        if self._began is None:
            return {}
        end = max(self._path.stat().st_mtime - self._began, self._phases[-1][1])
        seconds: dict[Phase, float] = {}
        ends = [at for _, at in self._phases[1:]] + [end]
        for (phase, start), stop in zip(self._phases, ends, strict=True):
            seconds[phase] = seconds.get(phase, 0.0) + stop - start
        return {phase: spent for phase, spent in seconds.items() if spent > 0}
