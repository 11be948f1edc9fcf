"""What a logger is told: that a trial began, each of its rungs, and how it ended."""

from __future__ import annotations

from typing import Any, Protocol

from naslab.runs.trial import RungRecord, Trial


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


def parameters(trial: Trial) -> dict[str, bool | int | float | str]:
    """What tells a trial from others, in plain values; the layers of a chain in one word each."""
    job = trial.job
    facts: dict[str, Any] = {"role": job.role, "arm": job.arm or "", "label": job.label, "seed": job.seed}
    for name, value in (job.configuration.as_dict() if job.configuration is not None else {}).items():
        facts[name] = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in facts.items()}


def results(trial: Trial) -> dict[str, float]:
    """Final scores and device seconds of a trial that has ended."""
    seconds = {f"seconds/{phase}": spent for phase, spent in trial.seconds.items()}
    return {**{f"final/{name}": score for name, score in trial.scores.items()}, **seconds}


def title(trial: Trial) -> str:
    """A trial's name among others: they sort in the order in which they began."""
    return f"{trial.number:05}-{trial.job.role}-seed{trial.job.seed}"
