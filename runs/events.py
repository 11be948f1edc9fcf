"""The events that a running trial writes to its folder: phases, rungs and heartbeats.

It is how the driver follows a worker, on this machine or another that shares the files, and how the seconds of a
trial that was killed are known. The ledger takes over what it says; nothing is read from it after that.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from naslab.errors import InputError, NaslabError
from naslab.runs.attempt import TRAIL, open_trail
from naslab.runs.clock import cpu_seconds
from naslab.runs.faults import cannot_write
from naslab.runs.trial import Phase, RungRecord

SIGN_OF_LIFE_SECONDS = 0.5


class Trail:
    """Writer, in the worker. Exactly one phase is charged at any time, from the first event to the last.

    Args:
        share: fraction of the device that each second of wall time is charged for.
        attempt: of `begin_attempt`; None: whoever writes here is the only one.

    Raises:
        InputError: it cannot be written.
        WorkerDied: another attempt has replaced this one.
    """

    def __init__(self, folder: Path, share: float = 1.0, attempt: str | None = None) -> None:
        self.share = share
        self._folder = folder
        self._path = folder / TRAIL
        self._process = os.getpid()
        self._began = self._since = time.perf_counter()
        self._cpu_began = self._cpu_since = cpu_seconds()
        self._phase: Phase = "other"
        self.seconds: dict[Phase, float] = {}
        """Of the device."""
        self.core_seconds: dict[Phase, float] = {}
        """By the CPU clock of this process and its children."""
        try:
            self._file = _anew(folder) if attempt is None else open_trail(folder, attempt)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
        self._write({"began": time.time(), "share": share})
        self._closed = threading.Event()
        self._life = threading.Thread(target=self._show_life, daemon=True)
        self._life.start()

    def made_on(self, device: str, threads: int) -> None:
        """Say what only a worker knows: its device, by kind and maker's name, and its CPU threads."""
        self._write({"device": device, "threads": threads})

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Charge what happens inside to `phase`."""
        before = self._phase
        self._switch(phase)
        try:
            yield
        finally:
            self._switch(before)

    def compiled(self, seconds: float, threads: int = 1) -> None:
        """Charge to `compile` so many of the last seconds of the present phase: a compiler of some threads had them."""
        phase, now, cpu = self._phase, time.perf_counter(), cpu_seconds()
        wall = min(seconds, now - self._since)
        cores = min(threads * seconds, cpu - self._cpu_since)
        self._switch_at("compile", now - wall, cpu - cores)
        self._switch_at(phase, now, cpu)

    def rung(self, epoch: int, scores: dict[str, float]) -> RungRecord:
        """Report a rung."""
        cores = cpu_seconds() - self._cpu_began
        record = RungRecord(epoch, self.share * (time.perf_counter() - self._began), scores, cores)
        self._write({"rung": asdict(record)})
        return record

    def so_far(self) -> tuple[dict[Phase, float], dict[Phase, float]]:
        """Seconds and core seconds by phase up to now."""
        seconds, cores = dict(self.seconds), dict(self.core_seconds)
        _add(seconds, self._phase, self.share * (time.perf_counter() - self._since))
        _add(cores, self._phase, cpu_seconds() - self._cpu_since)
        return seconds, cores

    def __enter__(self) -> Trail:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._life.join()
        os.close(self._file)

    def settle(self) -> None:
        """Charge no more: `seconds` and `core_seconds` are whole."""
        self._switch(self._phase)

    def end(self, outcome: dict[str, Any]) -> None:
        """Report what came of the trial, so that it is known even if nobody is there any more to be told."""
        self._write({"outcome": outcome})

    def _switch(self, phase: Phase) -> None:
        self._switch_at(phase, time.perf_counter(), cpu_seconds())

    def _switch_at(self, phase: Phase, now: float, cpu: float) -> None:
        _add(self.seconds, self._phase, self.share * (now - self._since))
        _add(self.core_seconds, self._phase, cpu - self._cpu_since)
        self._since, self._cpu_since, self._phase = now, cpu, phase
        self._write({"phase": phase, "at": now - self._began, "cpu": cpu - self._cpu_began})

    def _write(self, event: dict[str, Any]) -> None:
        if os.getpid() != self._process:
            os._exit(0)  # a child that a task forked and let come back: two must not answer for one
        try:
            os.write(self._file, (json.dumps(event) + "\n").encode())
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def _show_life(self) -> None:
        while not self._closed.wait(SIGN_OF_LIFE_SECONDS):
            if self._is_taken_away():
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                self._write({"alive": time.perf_counter() - self._began, "cpu": cpu_seconds() - self._cpu_began})
            except NaslabError:
                return

    def _is_taken_away(self) -> bool:
        """Whether another driver has begun this job anew: two workers on one checkpoint would spoil it."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return True
        except OSError:
            return False


def _anew(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / TRAIL, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)


def _add(totals: dict[Phase, float], phase: Phase, spent: float) -> None:
    totals[phase] = totals.get(phase, 0.0) + spent


class Follower:
    """Reader, in the driver: what a trail says so far."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TRAIL
        self._offset = self._returned = 0
        self.rungs: list[RungRecord] = []
        self.phase: Phase = "other"
        self.outcome: dict[str, Any] | None = None
        self.began: float | None = None
        """Unix seconds by the worker's clock; None before its first event."""
        self.share = 1.0
        """Of the device."""
        self.device = ""
        """Kind and maker's name; empty before it is told."""
        self.threads: int | None = None
        self._phases: list[tuple[Phase, float, float]] = [("other", 0.0, 0.0)]
        """Each phase with the seconds and core seconds at which it began."""
        self._latest = (0.0, 0.0)

    def read(self) -> list[RungRecord]:
        """Take in what is new; the rungs that were not returned before."""
        self._take_in()
        new, self._returned = self.rungs[self._returned :], len(self.rungs)
        return new

    def _take_in(self) -> None:
        try:
            with self._path.open(encoding="utf-8") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return
        whole, _, _ = text.rpartition("\n")
        self._offset += len(whole.encode()) + bool(whole)
        for event in map(_parsed, whole.splitlines()):
            self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        if "began" in event:
            self.began, self.share = event["began"], event.get("share", 1.0)
        elif "device" in event:
            self.device, self.threads = event["device"], event["threads"]
        elif "phase" in event:
            self.phase = event["phase"]
            self._phases.append((event["phase"], event["at"], event.get("cpu", 0.0)))
            self._latest = (event["at"], event.get("cpu", 0.0))
        elif "alive" in event:
            self._latest = max(self._latest, (event["alive"], event["cpu"]))
        elif "outcome" in event:
            self.outcome = event["outcome"]
        elif "rung" in event:
            self.rungs.append(RungRecord(**event["rung"]))

    @property
    def last_seen(self) -> float | None:
        """Unix seconds of the last sign of life, by the worker's clock."""
        return None if self.began is None else self.began + self._latest[0]

    def seconds(self) -> dict[Phase, float]:
        """Device seconds by phase up to the last sign of life."""
        return {phase: self.share * seconds for phase, seconds in self._by_phase(0).items()}

    def core_seconds(self) -> dict[Phase, float]:
        """Core seconds by phase up to the last sign of life."""
        return self._by_phase(1)

    def _by_phase(self, clock: int) -> dict[Phase, float]:
        self._take_in()
        spent: dict[Phase, float] = {}
        ends = [*(begun[1:] for begun in self._phases[1:]), self._latest]
        for (phase, *start), stop in zip(self._phases, ends, strict=True):
            _add(spent, phase, stop[clock] - start[clock])
        return {phase: seconds for phase, seconds in spent.items() if seconds > 0}


def _parsed(line: str) -> dict[str, Any]:
    """An event; one that a full disk cut short says nothing."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
