"""The interface of a logger: a trial began, reached a rung, or ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from naslab.runs.trial import RungRecord, Trial

Run = TypeVar("Run")


class Logger(Protocol):
    """Called in one thread of the driver, in the order in which things happened."""

    def began(self, trial: Trial) -> None:
        """A trial runs; one that an earlier driver began may come to its end without this word."""

    def rung(self, trial: Trial, rung: RungRecord) -> None:
        """A running trial has reported a rung."""

    def ended(self, trial: Trial) -> None:
        """A trial has its final record."""

    def close(self) -> None:
        """Nothing more will be told."""


class OpenRuns(Generic[Run]):
    """What a logger's library calls a run, one for each trial that has not ended.

    Args:
        make: opens a trial's run, when it is first asked for: an earlier driver may have begun the trial.
    """

    def __init__(self, make: Callable[[Trial], Run]) -> None:
        self._make = make
        self._open: dict[int, Run] = {}

    def of(self, trial: Trial) -> Run:
        """The trial's run."""
        if trial.number not in self._open:
            self._open[trial.number] = self._make(trial)
        return self._open[trial.number]

    def take(self, trial: Trial) -> Run:
        """The same for the last time: whoever takes it closes it."""
        run = self.of(trial)
        del self._open[trial.number]
        return run

    def rest(self) -> list[Run]:
        """Those of trials whose end was not told."""
        return list(self._open.values())


def parameters(trial: Trial) -> dict[str, bool | int | float | str]:
    """What tells a trial from others, in plain values; the layers of a chain in one word each."""
    job = trial.job
    facts: dict[str, Any] = {"role": job.role, "arm": job.arm or "", "label": job.label, "seed": job.seed}
    for name, value in (job.configuration.as_dict() if job.configuration is not None else {}).items():
        facts[name] = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in facts.items()}


def reported(rung: RungRecord) -> dict[str, float]:
    """Scores of a rung, and the device seconds until then."""
    return {**rung.scores, "device_seconds": rung.device_seconds}


def results(trial: Trial) -> dict[str, float]:
    """Final scores and device seconds of a trial that has ended."""
    seconds = {f"seconds/{phase}": spent for phase, spent in trial.seconds.items()}
    return {**{f"final/{name}": score for name, score in trial.scores.items()}, **seconds}


def title(trial: Trial) -> str:
    """A trial's name among others: they sort in the order in which they began."""
    return f"{trial.number:05}-{trial.job.role}-seed{trial.job.seed}"
